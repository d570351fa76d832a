"""What cannot be built or filled is refused in one sentence before training starts."""

import pytest

from hardlab import build, data, recipes
from hardlab.types import HardlabError


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("simsiam", {"augment.size": 64}, "augment.size=64 is larger than the images of shapes"),
        ("simsiam", {"batch_size": 100_000}, "batch_size=100000 is larger than the data set: shapes has [0-9]+ images"),
    ],
)
def test_images_that_cannot_fill_a_batch_or_a_crop_are_refused(name, overrides, message, tmp_path):
    run = recipes.recipe(name, "smoke", overrides)
    with pytest.raises(HardlabError, match=message):
        build.fits(run, build.images(run), build.look(run))


def test_small_crops_larger_than_the_large_ones_are_refused_without_any_data():
    with pytest.raises(HardlabError, match=r"local\.size=40 is larger than the large views, which have 32 pixels"):
        build.check(recipes.recipe("dino-multicrop", "smoke", {"local.size": 40}))


def test_an_unknown_class_in_a_class_list_is_refused_and_the_nearest_named():
    name = data.load("shapes", count=20).classes[0]
    run = recipes.recipe("simsiam", "smoke", {"data.classes": [name[:-1]]})
    with pytest.raises(HardlabError, match=name):
        build.images(run)


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("rung", ["smoke", *(pytest.param(r, marks=pytest.mark.slow) for r in ("cpu", "gpu", "paper"))])
def test_every_recipe_can_be_built_at_every_rung(name, rung):
    build.check(recipes.recipe(name, rung))

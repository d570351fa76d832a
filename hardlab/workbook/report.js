"use strict";
(() => {
  // the claims: a search, the paper and the verdict together
  const filter = document.querySelector(".filter");
  if (filter) {
    const claims = [...document.querySelectorAll(".claim")];
    const words = new Map(claims.map((c) => [c, c.textContent.toLowerCase()]));
    const [search, paper, verdict] = filter.querySelectorAll("input, select");
    const shown = filter.querySelector("output");
    const apply = () => {
      const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const c of claims) {
        const fits = (!paper.value || c.dataset.paper === paper.value) &&
          (!verdict.value || c.dataset.verdict === verdict.value) && asked.every((w) => words.get(c).includes(w));
        c.hidden = !fits;
        count += fits;
      }
      shown.textContent = `${count} of ${claims.length} claims`;
    };
    filter.hidden = false;
    filter.addEventListener("input", apply);
    apply();
  }
  const fold = (selector) => { for (const d of document.querySelectorAll(selector)) d.open = false; };
  if (matchMedia("(max-width: 1000px)").matches) fold(".contents details");
  if (matchMedia("(max-width: 640px)").matches) fold(".fold"); // where each row of a table takes several lines
  // the place that the address names is shown, also inside what is folded or filtered away
  const show = () => {
    let at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!at) return;
    const target = at;
    for (; at; at = at.parentElement) {
      if (at.matches("details")) at.open = true;
      at.hidden = false;
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", show);
  show();
  // on paper no claim and no result is folded; manifests, notebooks and the first rows of tables are
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll(".claim:not([open]), .fold:not([open])")];
    for (const d of opened) d.open = true;
  });
  addEventListener("afterprint", () => { for (const d of opened) d.open = false; });
})();

(() => {
  const rows = document.querySelector("#rows");
  if (!rows) return;
  const find = rows.querySelector("input"), told = rows.querySelector("output"), tabs = [...rows.querySelectorAll("[role=tab]")];
  const panels = [...rows.querySelectorAll("section")];
  let at = -1;
  const shown = () => [...rows.querySelectorAll("section:not([hidden]) article:not([hidden])")];
  const show = name => {
    tabs.forEach(tab => tab.setAttribute("aria-selected", tab.dataset.name === name));
    panels.forEach(panel => { panel.hidden = panel.dataset.name !== name; });
    look();
  };
  const look = () => {
    const words = find.value.toLowerCase();
    rows.querySelectorAll("section:not([hidden]) article").forEach(row => {
      row.hidden = words !== "" && !row.textContent.toLowerCase().includes(words);
    });
    at = -1;
    told.textContent = `${shown().length} rows`;
  };
  const step = by => {
    const all = shown();
    at = Math.max(0, Math.min(all.length - 1, at + by));
    if (all[at]) { all[at].scrollIntoView({ block: "start" }); all[at].focus({ preventScroll: true }); }
  };
  tabs.forEach(tab => tab.addEventListener("click", () => show(tab.dataset.name)));
  find.addEventListener("input", look);
  document.addEventListener("keydown", event => {
    if (event.target === find || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
    if (event.key === "/") { event.preventDefault(); find.focus(); }
  });
  rows.classList.add("live");
  if (tabs.length) show(tabs[0].dataset.name);
})();

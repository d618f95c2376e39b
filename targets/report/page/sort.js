// A click on a heading sorts the table below it; a second click turns the order round.
for (const table of document.querySelectorAll("table.sort")) {
  table.querySelectorAll("th button").forEach((button) => {
    const th = button.closest("th");
    button.addEventListener("click", () => {
      const column = [...th.parentNode.children].indexOf(th);
      const up = th.getAttribute("aria-sort") !== "ascending";
      for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }) * (up ? 1 : -1));
      // figures carry their value in data-v: compare those as numbers, whatever their spelling
      if (rows.length && rows[0].cells[column].dataset.v !== undefined)
        rows.sort((a, b) => (Number(key(a)) - Number(key(b))) * (up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

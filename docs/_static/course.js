// On a phone, the list of contents closes when a section was chosen.
document.addEventListener("click", (event) => {
  event.target.closest("dialog a[href^='#']")?.closest("dialog").close();
});

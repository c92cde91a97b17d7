// Light, dark, or what the system says. No module, so that it has spoken before anything is painted.

(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  /** @param {string} [theme] what to remember; without it, what was remembered */
  const memory = (theme) => {
    try {
      if (theme) localStorage.setItem("theme", theme);
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden; the choice then lasts as long as the page
    }
  };

  const kept = memory();
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button?.setAttribute("aria-pressed", String(isDark()));
    dark.addEventListener("change", show);
    button?.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      memory(root.dataset.theme);
      show();
    });
    show();
  });
})();

"use strict";
// Runs before the page is drawn. Without a choice, the page follows the system.
const THEME = "lmaas-theme";
const page = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
page.dataset.theme = localStorage.getItem(THEME) ?? "";

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const other = () =>
    (page.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
  const label = () => {
    button.textContent = other() === "dark" ? "Dark" : "Light";
  };
  button.addEventListener("click", () => {
    localStorage.setItem(THEME, (page.dataset.theme = other()));
    label();
  });
  systemDark.addEventListener("change", label);
  label();
});

(json) => {
  // What the server says of the form, put beside its fields without making the form anew: the focus stays.
  if (!json) return;
  const told = JSON.parse(json);
  const form = document.querySelector('#recipes-form form');
  if (!form || form.dataset.recipe !== told.recipe || told.serial < window.recipesSerial) return;
  for (const place of form.querySelectorAll('[data-told]')) {
    const problem = told.problems[place.dataset.told] || '';
    const field = form.elements.namedItem(place.dataset.told);
    if (place.textContent !== problem) place.textContent = problem;
    if (problem) field.setAttribute('aria-invalid', 'true');
    else field.removeAttribute('aria-invalid');
    if (problem && place.closest('details')) place.closest('details').open = true;
  }
  form.querySelector('.recipes-command code').textContent = told.command;
  form.querySelector('.recipes-summary').textContent = told.summary;
  if (told.focus) {
    const first = form.querySelector('[aria-invalid]');
    if (first) first.focus();
  }
  if (told.started) setTimeout(() => document.querySelector('#recipes-job h3')?.focus(), 150);
}

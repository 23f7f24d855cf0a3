// The recipe's form: what differs from the defaults is told to the server as it changes. Loaded by its HTML component.
const form = () => element.querySelector('form');
const text = (field) => (field.type === 'checkbox' ? String(field.checked) : field.value);
const told = () => {
  const values = {};
  for (const field of element.querySelectorAll('[data-default]'))
    if (text(field) !== field.dataset.default) values[field.name] = text(field);
  return { recipe: form().dataset.recipe, values, serial: ++window.recipesSerial };
};
window.recipesSerial = window.recipesSerial || 0;
let wait = 0;
element.addEventListener('input', (event) => {
  if (!event.target.dataset.default && event.target.dataset.default !== '') return;
  clearTimeout(wait);
  wait = setTimeout(() => trigger('input', told()), 250);
});
element.addEventListener('change', (event) => {
  if (event.target.id === 'recipes-like' && event.target.value)
    trigger('click', { act: 'like', recipe: form().dataset.recipe, run: event.target.value });
});
element.addEventListener('submit', (event) => event.preventDefault());
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const act = button.dataset.act;
  if (act === 'copy') {
    navigator.clipboard.writeText(element.querySelector('.recipes-command code').textContent).then(
      () => { button.textContent = 'Copied'; },
      () => { getSelection().selectAllChildren(element.querySelector('.recipes-command code')); },
    );
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  } else if (act === 'pick') {
    const list = document.getElementById('recipes-name');
    list.value = button.dataset.recipe;
    list.dispatchEvent(new Event('change', { bubbles: true }));
    list.focus();
  } else {
    clearTimeout(wait);
    trigger('click', { act, ...told() });
  }
});

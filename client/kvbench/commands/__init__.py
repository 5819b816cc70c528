"""The commands of kvbench, one module each. They import what measures or plots only when they are called."""

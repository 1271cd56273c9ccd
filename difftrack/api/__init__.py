"""The notebook API: the functions that `import difftrack` offers; each module holds one verb."""

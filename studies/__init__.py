"""One runnable file per paper artefact; `harness` is what runs them."""

"""Network architectures: plain modules, no weights and no registries."""

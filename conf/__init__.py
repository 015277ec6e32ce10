"""The vocabulary: one folder per choice, one YAML per option. `allowed.yaml` says which values a key takes."""

"""What the config rewriter does, on parsed values: the text is for ``cerebras_utils.yaml_edit``."""

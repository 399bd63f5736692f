"""Any causal language model of a local transformers folder, behind the text worker's engine and HTTP interface."""

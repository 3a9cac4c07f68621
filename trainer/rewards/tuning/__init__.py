"""Fine-tuning of vision-language reward models: LoRA adapters or all weights, on one process or several."""

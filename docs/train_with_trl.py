"""Train a model with TRL and log its noise: python docs/train_with_trl.py [FOLDER OF A MODEL].

Without a folder it makes a tiny model of its own. Nothing is downloaded.
"""

import sys
from tempfile import mkdtemp

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2Tokenizer
from trl import GRPOConfig

from ustat_grpo.integrations.trl import NoiseGRPOTrainer, NoiseLogging

if sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
else:
    tokens = {token: place for place, token in enumerate([*"0123456789+=", "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=tokens, merges=[], eos_token="<|endoftext|>")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), eos_token_id=12, **sizes, **heads)
    model = AutoModelForCausalLM.from_config(config)


def largest_digit(completions, **_):
    """Reward an output by its largest digit."""
    return [max((int(c) for c in text if c.isdecimal()), default=0) / 9 for text in completions]


args = GRPOConfig(
    output_dir=mkdtemp(), use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    disable_tqdm=True, max_steps=6, logging_steps=2, learning_rate=1e-3,
    per_device_train_batch_size=32, gradient_accumulation_steps=2, num_generations=4,
    max_completion_length=6,
)  # fmt: skip
prompts = [f"{a}+{b}=" for a in range(10) for b in range(10)]
trainer = NoiseGRPOTrainer(
    model=model, processing_class=tokenizer, reward_funcs=largest_digit, args=args,
    train_dataset=Dataset.from_dict({"prompt": prompts}), noise=NoiseLogging(every=2, keep=3),
)  # fmt: skip
trainer.train()
for row in trainer.state.log_history:
    print({key: value for key, value in row.items() if key.startswith(("noise", "group"))})

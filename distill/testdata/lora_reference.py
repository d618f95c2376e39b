# Three steps of training a LoRA adapter, by PyTorch and PEFT: what distill/lowrank_test.go holds the same training to.
#   pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 && python lora_reference.py ../../testdata/books-llama/model > peft.json
import json, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

torch.set_num_threads(2)
model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
# factors that can be made anywhere: element i is (i*step mod 1009)/1009 - 1/2, a tenth and a hundredth of it
low = {n: p for n, p in model.named_parameters() if p.requires_grad}
for n, p in low.items():
    step, scale = (7, 0.1) if "lora_A" in n else (11, 0.01)
    i = torch.arange(p.numel(), dtype=torch.float64)
    p.data = (((i * step) % 1009 / 1009 - 0.5) * scale).float().reshape(p.shape)
ids = torch.tensor([[(i * 64 + j) * 37 % 4000 + 5 for j in range(64)] for i in range(3)])
opt = torch.optim.AdamW(low.values(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
steps = []
for _ in range(3):
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    norms = {n.split("base_model.model.")[1]: p.grad.double().norm().item() for n, p in low.items()}
    total = torch.nn.utils.clip_grad_norm_(low.values(), 1.0).item()
    opt.step()
    opt.zero_grad()
    steps.append({"loss": loss.item(), "norm": total, "norms": norms})
json.dump(steps, sys.stdout, indent=1)

# Loss and gradient norms of one batch, by PyTorch and transformers: what distill/reference_test.go holds the
# backward pass to. Run it beside testdata/books-llama/model; it prints testdata/torch.json.
#   pip install torch==2.11.0 transformers==5.23.0 && python reference.py ../../testdata/books-llama/model > torch.json
import json, sys, torch
from transformers import LlamaForCausalLM

torch.manual_seed(0)
torch.set_num_threads(2)
model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
teacher = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
ids = torch.tensor([[(i * 64 + j) * 37 % 4000 + 5 for j in range(64)] for i in range(3)])
# the teacher differs: its last block gives nothing
with torch.no_grad():
    teacher.model.layers[-1].mlp.down_proj.weight.zero_()
    p = teacher(ids).logits
out = {}
for name in ("cross_entropy", "kl", "reverse-kl"):
    model.zero_grad()
    z = model(ids).logits
    if name == "cross_entropy":
        loss = torch.nn.functional.cross_entropy(z[:, :-1].reshape(-1, z.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum")
    else:
        lp, lq = torch.log_softmax(p / 2, -1), torch.log_softmax(z / 2, -1)
        a, b = (lp, lq) if name == "kl" else (lq, lp)
        loss = 4 * (a.exp() * (a - b)).sum()
    loss.backward()
    out[name] = {"loss": loss.item(), "norms": {n: q.grad.double().norm().item() for n, q in model.named_parameters()}}
json.dump(out, sys.stdout, indent=1)

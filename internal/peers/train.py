"""train.py MODEL THREADS: steps of training a student to give what its teacher gives, by PyTorch, in the protocol of client.go.

Reads lines "step f32|bf16 BATCH LENGTH" (bf16: under autocast) and answers "ok SECONDS", or "memory" and answers
"ok BYTES", the most that was resident. A step is the forward pass of both models, the KL divergence, the backward
pass, clipping to length 1 and AdamW over all weights; as many sequences go through at once as pare takes.
"""
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(int(sys.argv[2]))
student, teacher = (AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32) for _ in range(2))
student.train()
teacher.eval()
opt = torch.optim.AdamW(student.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0)
AT_ONCE = 2048  # tokens


def step(typ, batch, length):
    ids = torch.tensor([[(i * length + j) * 37 % 4000 + 5 for j in range(length)] for i in range(batch)])
    start = time.perf_counter()
    for part in ids.split(max(1, AT_ONCE // length)):
        with torch.autocast("cpu", torch.bfloat16, enabled=typ == "bf16"):
            with torch.no_grad():
                p = teacher(input_ids=part, use_cache=False).logits
            q = student(input_ids=part, use_cache=False).logits
        p, q = (torch.log_softmax(x.float().flatten(0, 1), -1) for x in (p, q))
        (torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / (batch * length)).backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    opt.step()
    opt.zero_grad()
    return time.perf_counter() - start


for line in sys.stdin:
    words = line.split()
    if words[0] == "memory":
        print("ok %d" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), flush=True)
    else:
        print("ok %.9g" % step(words[1], int(words[2]), int(words[3])), flush=True)

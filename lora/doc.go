// Package lora merges adapters, as PEFT writes them, into a model, weight by weight:
//
//	W' = W + scale * B A        LoRA, scale = alpha/r (rsLoRA: alpha/sqrt(r))
//	W' = m / |W + scale * B A| * (W + scale * B A)   DoRA, row norms along the input
//	W' = W * l                  IA3, per output or per input
//
// An adapter folder is opened with Open; New makes the pass "lora.merge" from one or more of them,
// applied in order. Nothing of the model is loaded: the pass swaps handles for derived ones that
// add the change to a band of rows when it is read. The same pass can leave the adapters beside
// the weights (Attached), so that the merged model is proved against base plus adapter (Prove).
//
// Sources: PEFT 0.21 (tuners/lora, tuners/ia3, utils/save_and_load.py); LoRA arXiv 2106.09685,
// rsLoRA 2312.03732, DoRA 2402.09353, IA3 2205.05638.
package lora

// Package verify compares a package with the original it was made from: perplexity, KL divergence,
// agreement of the most likely token, the error that every block adds, and text that both write.
// Both models run side by side over the same tokens and only a few rows of logits are held, so
// memory does not grow with vocabulary times tokens.
//
// The protocol is llama.cpp's: the tokens of the text, behind BOS when the tokenizer adds one, are cut
// into chunks of Context tokens without overlap, the first token of a chunk becomes BOS again, and
// the targets at positions Context/2+1 .. Context-1 are scored. Every figure carries the protocol's
// name and settings.
package verify

// Package corpus reads what models learn from and are compared on: plain text, JSON lines with a field
// of text, messages or token ids, and arrays of token ids (.npy). It gives tokens in documents, in order or shuffled,
// and cuts them into sequences.
package corpus

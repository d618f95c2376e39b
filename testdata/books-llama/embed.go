// Package booksllama carries the sample that travels inside the pare binary: a small trained
// language model, a LoRA adapter for it, and the texts that calibrate and judge it. README.md says
// where each file comes from. `pare demo` writes them out.
package booksllama

import "embed"

// Files holds model/, adapter-shakespeare/ and text/ as they lie in this folder, the importance
// matrix, and the README that names source and licence.
//
//go:embed README.md imatrix.gguf model adapter-shakespeare/adapter_config.json adapter-shakespeare/adapter_model.safetensors text
var Files embed.FS

// Test is the text that judges a model when no other is named.
func Test() []byte {
	b, err := Files.ReadFile("text/test.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	return b
}

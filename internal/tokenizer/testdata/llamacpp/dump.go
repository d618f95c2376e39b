// Command dump prints the GGUF metadata that package tokenizer makes of Hugging Face folders, as
// JSON: {"<folder>": [{"Key": ..., "Value": ...}]}. make_goldens.py feeds it to llama.cpp.
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/tokenizer"
)

func main() {
	out := map[string][]tokenizer.KV{}
	for _, folder := range os.Args[1:] {
		tok, err := os.ReadFile(filepath.Join(folder, "tokenizer.json")) // #nosec G304 -- a generator
		if err != nil {
			log.Fatal(err)
		}
		config, _ := os.ReadFile(filepath.Join(folder, "tokenizer_config.json"))      // #nosec G304
		generation, _ := os.ReadFile(filepath.Join(folder, "generation_config.json")) // #nosec G304
		s, err := tokenizer.FromTokenizerJSON(tok, config, generation, nil)
		if err != nil {
			log.Fatal(folder, ": ", err)
		}
		kvs, err := s.GGUF()
		if err != nil {
			log.Print(folder, ": ", err)
			continue
		}
		out[folder] = kvs
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}

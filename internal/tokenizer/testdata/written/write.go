// Command write reads GGUF metadata as JSON, {"<name>": {"<key>": value}}, and prints what package
// tokenizer writes for it: {"<name>": {"tokenizer.json": "...", "tokenizer_config.json": "..."}}.
// A value {"llama2c": "<path>"} stands for a llama2.c tokenizer of 512 tokens.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/pare-dev/pare/internal/tokenizer"
)

func main() {
	var in map[string]map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		log.Fatal(err)
	}
	out := map[string]map[string]string{}
	for name, kvs := range in {
		s, err := tokenizer.FromGGUF(func(key string) (any, bool) { return value(kvs[key]) })
		if path, ok := kvs["llama2c"].(string); ok {
			var b []byte
			if b, err = os.ReadFile(path); err == nil { // #nosec G304 -- a generator
				s, err = tokenizer.FromLlama2C(b, 512)
			}
		}
		if err != nil {
			log.Fatal(name, ": ", err)
		}
		tok, config, err := s.TokenizerJSON()
		if err != nil {
			log.Fatal(name, ": ", err)
		}
		out[name] = map[string]string{"tokenizer.json": string(tok), "tokenizer_config.json": string(config)}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}

// value gives JSON values the types that GGUF has.
func value(v any) (any, bool) {
	switch x := v.(type) {
	case nil:
		return nil, false
	case float64:
		return int64(x), true
	case []any:
		if len(x) > 0 {
			if _, ok := x[0].(string); ok {
				out := make([]string, len(x))
				for i := range x {
					out[i], _ = x[i].(string)
				}
				return out, true
			}
		}
		out := make([]float64, len(x))
		ids := make([]int32, len(x))
		whole := true
		for i := range x {
			out[i], _ = x[i].(float64)
			ids[i] = int32(out[i])
			whole = whole && float64(ids[i]) == out[i]
		}
		if whole {
			return ids, true
		}
		return out, true
	}
	return v, true
}

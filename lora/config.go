package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Reasons for refusing an adapter.
var (
	ErrConfig      = errors.New("adapter_config.json cannot be read")
	ErrUnsupported = errors.New("not supported")
	ErrRank        = errors.New("rank mismatch")
	ErrMissing     = errors.New("missing from the adapter")
	ErrShape       = errors.New("shape mismatch")
	ErrNoMatch     = errors.New("no tensor of the base matches")
	ErrNoChange    = errors.New("the adapters change nothing")
)

// Config is what adapter_config.json says about the mathematics of an adapter.
type Config struct {
	Type     string // "LORA" or "IA3"
	Rank     int    // default rank, LORA only
	Alpha    float64
	RSLoRA   bool
	DoRA     bool
	FanInOut bool   // weights of the targets are stored [in,out] (Conv1D of GPT-2)
	LoRABias bool   // B has a bias
	Bias     string // "none", "all" or "lora_only": which biases of the base the file replaces
	Saved    []string
	KeepTies bool // ensure_weight_tying: a change of the embedding is meant for the tied head too
	Base     string
	ranks    []pattern
	alphas   []pattern
}

// pattern is an entry of rank_pattern or alpha_pattern.
type pattern struct {
	re    *regexp.Regexp
	value float64
}

// supported lists the peft_type values that merge.
var supported = []string{"LORA", "IA3"}

// harmless are keys that say how an adapter was made or found, and nothing about what it computes
// once its tensors are known.
var harmless = []string{
	"auto_mapping", "peft_version", "revision", "task_type", "inference_mode", "lora_dropout", "target_modules",
	"exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "megatron_config", "loftq_config",
	"eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "init_ia3_weights",
}

// rebasing are values of init_lora_weights that move part of the base weight into the adapter: the
// file then belongs to a changed base that is not on disk.
var rebasing = []string{"pissa", "olora", "corda", "loftq", "lora_ga", "milora"}

// maxConfig bounds adapter_config.json in bytes.
const maxConfig = 16 << 20

// ParseConfig reads adapter_config.json. A key that is unknown and set to something is refused by
// name, because it may change what the adapter computes.
func ParseConfig(data []byte) (*Config, error) {
	fields, err := object(data)
	if err != nil {
		return nil, err
	}
	c := &Config{Rank: 8, Alpha: 8, Bias: "none"} // PEFT's defaults
	var errs []error
	for _, f := range fields {
		if err := c.set(f.key, f.value); err != nil {
			errs = append(errs, fmt.Errorf("%w: %q: %w", ErrConfig, f.key, err))
		}
	}
	if c.Type == "" {
		errs = append(errs, fmt.Errorf("%w: it names no peft_type", ErrConfig))
	}
	if c.Type == "LORA" && c.Rank <= 0 {
		errs = append(errs, fmt.Errorf("%w: r is %d; it must be positive", ErrRank, c.Rank))
	}
	return c, errors.Join(errs...)
}

// set takes one key of the file.
func (c *Config) set(key string, raw json.RawMessage) error {
	into := func(v any) error {
		if string(raw) == "null" {
			return nil
		}
		return json.Unmarshal(raw, v)
	}
	switch key {
	case "peft_type":
		if err := into(&c.Type); err != nil {
			return err
		}
		if !slices.Contains(supported, c.Type) {
			return fmt.Errorf("peft_type %q is %w; pare merges %s", c.Type, ErrUnsupported, strings.Join(supported, " and "))
		}
		return nil
	case "r":
		return into(&c.Rank)
	case "lora_alpha":
		return into(&c.Alpha)
	case "use_rslora":
		return into(&c.RSLoRA)
	case "use_dora":
		return into(&c.DoRA)
	case "fan_in_fan_out":
		return into(&c.FanInOut)
	case "lora_bias":
		return into(&c.LoRABias)
	case "ensure_weight_tying":
		return into(&c.KeepTies)
	case "base_model_name_or_path":
		return into(&c.Base)
	case "modules_to_save":
		return into(&c.Saved)
	case "feedforward_modules":
		return nil // the shape of ia3_l says the same and cannot be wrong
	case "bias":
		if err := into(&c.Bias); err != nil {
			return err
		}
		if !slices.Contains([]string{"none", "all", "lora_only"}, c.Bias) {
			return fmt.Errorf("%q is none of none, all, lora_only", c.Bias)
		}
		return nil
	case "rank_pattern":
		return patterns(&c.ranks, raw, func(v float64) bool { return v >= 1 && v == math.Trunc(v) && v <= math.MaxInt32 })
	case "alpha_pattern":
		return patterns(&c.alphas, raw, func(float64) bool { return true })
	case "init_lora_weights":
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return nil // true or false
		}
		for _, r := range rebasing {
			if strings.HasPrefix(strings.ToLower(s), r) {
				return fmt.Errorf("%q keeps part of the base weight in the adapter and is %w; save it with PEFT's path_initial_model_for_weight_conversion", s, ErrUnsupported)
			}
		}
		return nil
	}
	if slices.Contains(harmless, key) || empty(raw) {
		return nil
	}
	return fmt.Errorf("the key is %w and is set to %s", ErrUnsupported, clip(string(raw), 60))
}

// empty reports whether a JSON value switches nothing on.
func empty(raw json.RawMessage) bool {
	return slices.Contains([]string{"null", "false", "0", "0.0", `""`, "{}", "[]"}, string(raw))
}

// patterns reads {regex: number}. PEFT matches (.*\.)?(key)$ from the start of the module's name
// and takes the first entry that does.
func patterns(dst *[]pattern, raw json.RawMessage, legal func(float64) bool) error {
	if empty(raw) {
		return nil
	}
	fields, err := object(raw)
	if err != nil {
		return err
	}
	for _, f := range fields {
		var v float64
		if err := json.Unmarshal(f.value, &v); err != nil {
			return fmt.Errorf("%q: %w", f.key, err)
		}
		if !legal(v) {
			return fmt.Errorf("%q: %v is not possible", f.key, v)
		}
		re, err := regexp.Compile(`^(.*\.)?(` + f.key + `)$`)
		if err != nil {
			return fmt.Errorf("%q: %w", f.key, err)
		}
		*dst = append(*dst, pattern{re, v})
	}
	return nil
}

func lookup(list []pattern, module string, otherwise float64) float64 {
	for _, p := range list {
		if p.re.MatchString(module) {
			return p.value
		}
	}
	return otherwise
}

// RankOf is the rank that the configuration gives a module, named without "base_model.model.".
func (c *Config) RankOf(module string) int { return int(lookup(c.ranks, module, float64(c.Rank))) }

// Scale is the factor of B A in a module: alpha/r, or alpha/sqrt(r) for rsLoRA, with the module's own
// alpha and r.
func (c *Config) Scale(module string) float64 {
	alpha, r := lookup(c.alphas, module, c.Alpha), float64(c.RankOf(module))
	if c.RSLoRA {
		r = math.Sqrt(r)
	}
	return alpha / r
}

// saves reports whether modules_to_save covers a module: an entry is the module's name or its end.
func (c *Config) saves(module string) bool {
	return slices.ContainsFunc(c.Saved, func(s string) bool {
		return module == s || strings.HasSuffix(module, "."+s) || strings.Contains("."+module+".", "."+s+".")
	})
}

type field struct {
	key   string
	value json.RawMessage
}

// object reads a JSON object in file order. Keys used twice are refused: readers disagree on
// which one counts.
func object(data []byte) ([]field, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: invalid UTF-8", ErrConfig)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	at := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: the JSON ends early, at byte %d", ErrConfig, len(data))
		}
		pos := dec.InputOffset()
		if se := (*json.SyntaxError)(nil); errors.As(err, &se) {
			pos = max(pos, se.Offset)
		}
		return fmt.Errorf("%w: byte %d: %w", ErrConfig, pos, err)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, at(err)
	}
	if tok != json.Delim('{') {
		return nil, fmt.Errorf("%w: it is not a JSON object", ErrConfig)
	}
	var fields []field
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, at(err)
		}
		f := field{key: tok.(string)} // the decoder lets only strings be keys
		if seen[f.key] {
			return nil, at(fmt.Errorf("key %q occurs twice", f.key))
		}
		seen[f.key] = true
		if err := dec.Decode(&f.value); err != nil {
			return nil, at(err)
		}
		fields = append(fields, f)
	}
	if _, err := dec.Token(); err != nil {
		return nil, at(err)
	}
	if dec.More() {
		return nil, at(errors.New("something follows the object"))
	}
	return fields, nil
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// sortedKeys lists the keys of a map in order, so that maps never decide an order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

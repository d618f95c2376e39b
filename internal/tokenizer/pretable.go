package tokenizer

import "slices"

// preRow is one kind of word splitting that llama.cpp knows by name. It compiles the patterns in,
// so a GGUF file carries only the name: a wrong one splits words wrongly without a word.
type preRow struct {
	names        []string // the first is the one to write
	splits       []Split
	ignoreMerges bool // llama.cpp sets both by name
	addBOS       bool
	note         string // where llama.cpp's own pattern is not the published one
}

// preRows lists the names with the patterns of the tokenizer.json files they were made for
// (llama.cpp, src/llama-vocab.cpp, read at commit 00ad355e). The first row with equal patterns
// names a tokenizer whose name is not known.
var preRows = []preRow{
	{names: []string{
		"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
		"mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
	}, splits: isolated(patternGPT2)},
	{
		names:  []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
		splits: isolated(patternLlama3), ignoreMerges: true, addBOS: true,
	},
	{names: []string{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, splits: isolated(patternLlama3)},
	{
		names:  []string{"qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo", "f2llmv2"},
		splits: isolated(patternQwen2),
	},
	{
		names:  []string{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
		splits: isolated(`\p{N}`, patternGPT2),
	},
	{names: []string{"qwen35"}, splits: isolated(`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}` +
		`| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`)},
	{names: []string{"tekken"}, splits: isolated(patternUpper + patternLower + `+|` + patternUpper1 + patternLower +
		`*|\p{N}` + patternRest), ignoreMerges: true, addBOS: true, note: noteMarks},
	{
		names: []string{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, splits: isolated(patternUpper + patternLower +
			`+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` + patternUpper1 + patternLower + `*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}` + patternRest),
		note: noteMarks,
	},
	{names: []string{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, splits: isolated(`\p{N}{1,3}`, `[一-龥぀-ゟ゠-ヿ]+`,
		"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"+
			`| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`)},
	{names: []string{"deepseek-coder"}, splits: isolated(`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, `[一-龥ࠀ-一가-퟿]+`, `\p{N}`)},
	{names: []string{"bailingmoe", "bailingmoe2", "llada-moe"}, splits: isolated(`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}` +
		`| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`)},
	{names: []string{"seed-coder"}, splits: isolated(`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}` +
		`| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`)},
	{names: []string{"falcon"}, splits: isolated("[\\p{P}$+<=>^~|`]+", patternGPT2, `[0-9][0-9][0-9]`)},
	// What llama.cpp does when a byte-level file has no name at all.
	{names: []string{"default"}, splits: isolated(`[\p{P}$+<=>^~|]+`, patternGPT2, `\p{N}+`, `[0-9][0-9][0-9]`)},
}

const noteMarks = "llama.cpp splits words at combining marks (Hebrew points, Thai vowels) where the original does not"

// The shared parts of the o200k family: words begin at a change from lower to upper case.
const (
	patternUpper  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*`
	patternUpper1 = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+`
	patternLower  = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	patternRest   = `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

func isolated(patterns ...string) []Split {
	out := make([]Split, len(patterns))
	for i, p := range patterns {
		out[i].Pattern = p
	}
	return out
}

// rowOf finds the row of a name.
func rowOf(name string) *preRow {
	for i := range preRows {
		if slices.Contains(preRows[i].names, name) {
			return &preRows[i]
		}
	}
	return nil
}

// preName names word splitting: the first name with these patterns, "" when llama.cpp has none.
func preName(splits []Split) string {
	for _, row := range preRows {
		if samePatterns(row.splits, splits) {
			return row.names[0]
		}
	}
	return ""
}

// samePatterns compares what the splits do: published patterns match every character, so that
// dropping what lies between the matches makes no difference.
func samePatterns(a, b []Split) bool {
	return slices.EqualFunc(a, b, func(x, y Split) bool { return x.Pattern == y.Pattern })
}

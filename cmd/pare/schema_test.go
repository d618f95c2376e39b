package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// contracts are the objects of --output json, by the name of their schema in docs/schema. The
// schemas are written from the types by -update, so a change shows in review; the fields below are
// promises to scripts and stay whatever the types do.
var contracts = map[string]struct {
	of     any
	fields string
}{
	"inspect": {inspection{}, "schema format architecture parameters bytes tokenizer.model tokenizer.vocab tensors.name tensors.role tensors.block tensors.shape tensors.type tensors.bytes tensors.bits_per_weight metadata problems"},
	"verify": {verify.Result{}, "schema protocol.text_sha256 protocol.context protocol.chunks protocol.tokens_scored perplexity.original perplexity.package perplexity.log_ratio perplexity.log_ratio_se " +
		"kl.mean kl.se kl.upper95 kl.median kl.p90 kl.p99 kl.max top1.agreement top1.lower95 bytes.original bytes.package gate.verdict gate.checks.name gate.checks.limit gate.checks.value gate.checks.bound gate.checks.verdict"},
	"explain-graph": {graphExplanation{}, "schema original package samples sqnr_db losses.layers losses.value losses.here_db losses.with_db losses.gain_db losses.keep losses.price_bytes untried"},
	"explain":       {verify.Explanation{}, "schema kl losses.tensor losses.kl losses.share losses.price_bytes"},
	"bench": {bench.Result{}, "schema machine.cpu machine.isa machine.threads machine.read_gb_s models.path models.load_s models.prefill_tok_s.median models.prefill_tok_s.p10 models.prefill_tok_s.p90 " +
		"models.decode_tok_s.median models.ttft_s models.token_s.p50 models.token_s.p90 models.token_s.p99 models.peak_rss_bytes ratio.prefill ratio.decode ratio.load ratio.rss"},
	"bench-graphs": {bench.Graphs{}, "schema machine.cpu machine.isa machine.threads inputs rounds models.path models.bytes models.load_s models.latency_s.p50 models.latency_s.p90 models.latency_s.p99 " +
		"models.batches.batch models.batches.together models.batches.latency_s.p50 models.batches.samples_s.median models.peak_rss_bytes ratio.latency ratio.batches.speed ratio.batches.lower95 ratio.load ratio.rss"},
	"build": {report.Report{}, "schema verdict targets.name targets.package targets.bytes targets.digest targets.verdict targets.perplexity targets.kl targets.top1 targets.bench targets.notes " +
		"targets.tensors.name targets.tensors.from targets.tensors.to targets.tensors.reason targets.refusals.tensor targets.refusals.reason targets.refusals.hint peak_memory_bytes disk_bytes estimate_s " +
		"targets.graph.integer targets.graph.float targets.graph.findings.node targets.graph.findings.rule targets.graph.findings.reason targets.graph.outputs.sqnr_db targets.graph.task.package targets.graph.bench.models.latency_s.p50"},
	"run":               {generation{}, "schema prompt_tokens tokens text finish"},
	"run-embeddings":    {embeddings{}, "schema model dimensions pooling normalized texts.tokens texts.embedding"},
	"run-graph":         {graphRun{}, "schema model samples outputs.name outputs.type outputs.shape outputs.min outputs.max outputs.mean outputs.top.classes outputs.top.scores load_s run_s"},
	"verify-embeddings": {verify.Embeddings{}, "schema protocol.texts cosine.mean cosine.lower95 cosine.min neighbours.agreement neighbours.lower95 bytes.original bytes.package gate.verdict"},
	"verify-graphs":     {verify.Graphs{}, "schema samples outputs.name outputs.sqnr_db outputs.cosine outputs.max_abs task.metric task.original task.package task.n top1.agreement bytes.original bytes.package gate.verdict gate.checks.name"},
	"quantize-graph":    {graphQuantization{}, "schema model package type samples integer kept.node kept.reason bytes.original bytes.package"},
	"prune-graph":       {channelPruning{}, "schema model package score before.flops before.parameters after.flops after.channels groups.layers groups.channels groups.kept groups.reason fits.layer fits.after_db outputs.name outputs.sqnr_db samples bytes.original bytes.package"},
	"doctor":            {diagnosis{}, "schema isa read_gb_s"},
}

// schemaOf describes how a type is written as JSON (draft 2020-12). Fields may be added, so other
// properties are allowed; what is always written is required.
func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[recipe.Recipe](), t.Kind() == reflect.Interface:
		return map[string]any{}
	case t == reflect.TypeFor[verify.Bound](): // null when nothing is known
		return map[string]any{"type": []any{"number", "null"}}
	case t.Kind() == reflect.Pointer:
		return map[string]any{"anyOf": []any{schemaOf(t.Elem()), map[string]any{"type": "null"}}}
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Struct:
		props, required := map[string]any{}, []string{}
		for f := range fieldsOf(t) {
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			props[name] = schemaOf(f.Type)
			if option != "omitempty" {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "properties": props, "required": required}
	}
	return map[string]any{"type": "integer"}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Anonymous && f.Tag.Get("json") == "" { // its fields are written as if they were t's
				for inner := range fieldsOf(f.Type) {
					if !yield(inner) {
						return
					}
				}
			} else if f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

// has reports whether a schema knows a field by its path.
func has(s map[string]any, path []string) bool {
	if either, ok := s["anyOf"].([]any); ok {
		return has(either[0].(map[string]any), path)
	}
	if items, ok := s["items"].(map[string]any); ok {
		return has(items, path)
	}
	if len(path) == 0 {
		return true
	}
	props, _ := s["properties"].(map[string]any)
	next, ok := props[path[0]].(map[string]any)
	return ok && has(next, path[1:])
}

func schemaFile(name string) string {
	return filepath.Join(home, "..", "..", "docs", "schema", name+".schema.json")
}

func TestSchemasAreCurrent(t *testing.T) {
	for name, c := range contracts {
		s := schemaOf(reflect.TypeOf(c.of))
		for _, f := range strings.Fields(c.fields) {
			if !has(s, strings.Split(f, ".")) {
				t.Errorf("%s: the promised field %s is gone", name, f)
			}
		}
		s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "pare "+name+" --output json"
		checkFile(t, schemaFile(name), s)
	}
	checkFile(t, schemaFile("recipe"), recipe.JSONSchema())
}

// checkFile compares a file with a value as JSON, or writes it.
func checkFile(t *testing.T, file string, v any) {
	t.Helper()
	want, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say (%v); go test ./cmd/pare -update rewrites it", file, err)
	}
}

// valid checks real output against the published schema.
func valid(t *testing.T, name, output string) map[string]any {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemaFile(name))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(output))
	if err != nil {
		t.Fatalf("%s: not JSON: %v\n%s", name, err, output)
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	m, isObject := v.(map[string]any)
	if !isObject {
		t.Fatalf("%s: not an object", name)
	}
	if n, isNumber := m["schema"].(json.Number); !isNumber || n.String() != "1" {
		t.Errorf("%s: schema is %v", name, m["schema"])
	}
	return m
}

// Every verb's JSON validates against its schema. The numbers themselves are tested where they are
// made.
func TestOutputsFollowTheirSchemas(t *testing.T) {
	dir := sample(t)
	text := []string{"--text", "books-llama/text/test.txt"}
	line := func(words string, more ...string) []string { return append(strings.Fields(words), more...) }

	got := valid(t, "inspect", ok(t, dir, line("inspect books-llama/model --output json")...))
	if n := len(got["tensors"].([]any)); n != 57 {
		t.Errorf("%d tensors", n)
	}
	got = valid(t, "build", ok(t, dir, line("plan books-llama/model -t arm64 -t gpu-vllm --output json")...))
	if got["planned"] != true || len(got["targets"].([]any)) != 2 {
		t.Errorf("plan: %v", got["planned"])
	}
	valid(t, "build", ok(t, dir, line("quantize books-llama/model --type q4_0 -o q.gguf --output json")...))
	valid(t, "verify", ok(t, dir, line("verify books-llama/model q.gguf --chunks 2 --context 128 --write 32 --gate size_ratio=0.5 --output json", text...)...))
	valid(t, "explain", ok(t, dir, line("explain books-llama/model q.gguf --chunks 1 --context 32 --output json", text...)...))
	valid(t, "bench", ok(t, dir, line("bench q.gguf --vs books-llama/model --prompt 16 --generate 4 --repeat 2 --output json")...))
	valid(t, "run", ok(t, dir, line("run q.gguf --tokens 1,15,27 -n 4 --output json")...))
	valid(t, "doctor", ok(t, dir, line("doctor --output json")...))
	for _, lines := range []string{"targets --output json", "version --output json", "run q.gguf --encode hello --output json", "run q.gguf --decode 40,495,79 --output json"} {
		var v struct {
			Schema int `json:"schema"`
		}
		if err := json.Unmarshal([]byte(ok(t, dir, line(lines)...)), &v); err != nil || v.Schema != 1 {
			t.Errorf("%s: schema %d, %v", lines, v.Schema, err)
		}
	}
}

// The recipe schema accepts what pare init writes and refuses an unknown key, as the parser does.
func TestRecipeSchema(t *testing.T) {
	s, err := jsonschema.NewCompiler().Compile(schemaFile("recipe"))
	if err != nil {
		t.Fatal(err)
	}
	good := `{"source":{"model":"m","adapters":["a:0.5"]},"target":[{"use":"arm64","quantize":"q4_0"}],"gate":{"kl_mean":0.05,"perplexity_increase":"4%"}}`
	bad := strings.Replace(good, "quantize", "quantise", 1)
	for text, want := range map[string]bool{good: true, bad: false} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

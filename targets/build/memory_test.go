package build

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/targets/recipe"
)

// sparseModel writes a llama checkpoint of about the given size whose weights are holes in the file:
// it takes no disk, and whoever holds a tensor of it takes memory all the same. A few elements of
// every matrix are set, so that scales and thresholds have something to find.
func sparseModel(t *testing.T, dir string, vocab int, size int64) (layers int) {
	t.Helper()
	const hidden, ffn, kv = 4096, 11008, 1024
	type shape []int
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   shape    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := map[string]entry{}
	var end int64
	add := func(name string, s ...int) {
		n := int64(2)
		for _, d := range s {
			n *= int64(d)
		}
		header[name] = entry{"BF16", s, [2]int64{end, end + n}}
		end += n
	}
	add("model.embed_tokens.weight", vocab, hidden)
	add("lm_head.weight", vocab, hidden)
	add("model.norm.weight", hidden)
	for end < size {
		p := fmt.Sprintf("model.layers.%d.", layers)
		add(p+"input_layernorm.weight", hidden)
		add(p+"post_attention_layernorm.weight", hidden)
		add(p+"self_attn.q_proj.weight", hidden, hidden)
		add(p+"self_attn.k_proj.weight", kv, hidden)
		add(p+"self_attn.v_proj.weight", kv, hidden)
		add(p+"self_attn.o_proj.weight", hidden, hidden)
		add(p+"mlp.gate_proj.weight", ffn, hidden)
		add(p+"mlp.up_proj.weight", ffn, hidden)
		add(p+"mlp.down_proj.weight", hidden, ffn)
		layers++
	}
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	copyDir(t, tiny, dir)
	config := fmt.Sprintf(`{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,
"num_attention_heads":32,"num_key_value_heads":8,"head_dim":128,"vocab_size":%d,"max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0,
"hidden_act":"silu","tie_word_embeddings":false,"torch_dtype":"bfloat16"}`, hidden, ffn, layers, vocab)
	for _, name := range []string{"model-bf16.gguf", "reference.safetensors", "config-v4.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(8 + len(head))
	write := func(b []byte, off int64) {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...), 0)
	if err := f.Truncate(at + end); err != nil {
		t.Fatal(err)
	}
	for _, e := range header {
		write([]byte{0x80, 0x3f, 0, 0xbf}, at+e.Offsets[0]) // 1, -0.5
		write([]byte{0x20, 0x3e}, at+(e.Offsets[0]+e.Offsets[1])/4*2)
	}
	return layers
}

// sparseAdapter writes a LoRA adapter for two projections of every layer.
func sparseAdapter(t *testing.T, dir string, layers int) {
	t.Helper()
	const hidden, ffn, rank = 4096, 11008, 4
	var data []byte
	header := map[string]any{}
	add := func(name string, rows, cols int) {
		from := len(data)
		for i := range rows * cols {
			data = binary.LittleEndian.AppendUint16(data, []uint16{0x3c80, 0xbc00, 0}[i%3]) // 1/64, -1/128, 0 in bf16
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": []int{rows, cols}, "data_offsets": []int{from, len(data)}}
	}
	for l := range layers {
		for _, m := range []struct {
			name    string
			out, in int
		}{{"self_attn.q_proj", hidden, hidden}, {"mlp.down_proj", hidden, ffn}} {
			p := fmt.Sprintf("base_model.model.model.layers.%d.%s.lora_", l, m.name)
			add(p+"A.weight", rank, m.in)
			add(p+"B.weight", m.out, rank)
		}
	}
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	config := `{"peft_type":"LORA","task_type":"CAUSAL_LM","r":4,"lora_alpha":8,"target_modules":["q_proj","down_proj"],"bias":"none","base_model_name_or_path":"sparse"}`
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"adapter_model.safetensors": slices.Concat(file, data), "adapter_config.json": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// largeEnv makes the test below use the size that the README speaks of, 12 GiB in 512 MiB; without
// it a smaller one of the same proportion.
const largeEnv = "PARE_TEST_LARGE"

// Memory is set by --max-memory and not by the model: quantizing, merging, pruning, and a whole
// build of a checkpoint far larger than the limit stay below it, measured by the system over the
// life of a process that does nothing else.
func TestMaxMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("peak memory of a child is read from /proc")
	}
	vocab, size, limit := 8192, int64(300<<20), int64(72<<20) // one matrix alone, of 86 MiB, is above the limit
	if os.Getenv(largeEnv) != "" {
		vocab, size, limit = 32000, 12<<30, 512<<20
	} else if testing.Short() {
		t.Skip("writes a few gigabytes")
	}
	dir := t.TempDir()
	model, adapter := filepath.Join(dir, "model"), filepath.Join(dir, "adapter")
	layers := sparseModel(t, model, vocab, size)
	sparseAdapter(t, adapter, layers)
	src := func() *recipe.Recipe {
		return &recipe.Recipe{Source: recipe.Source{Model: model}, Verify: recipe.Verify{Off: true}, Bench: recipe.Bench{Off: true}}
	}
	merge := src()
	merge.Source.Adapters = []recipe.Adapter{{Path: adapter, Weight: 1}}
	pruned := src()
	half := recipe.Ratio(0.5)
	pruned.Passes = []recipe.Pass{{Use: "prune.magnitude", Sparsity: &half, Scope: "layer"}}
	whole := src()
	whole.Source.Adapters = merge.Source.Adapters
	whole.Targets = []recipe.Target{{Use: "arm64", Quantize: "q4_0"}}
	for _, c := range []struct {
		name string
		job  childJob
	}{
		{"quantize q8_0", childJob{Recipe: src(), To: "gguf", Quantize: &recipe.Target{Quantize: "q8_0"}}},
		{"merge", childJob{Recipe: merge, To: "hf"}},
		{"prune", childJob{Recipe: pruned, To: "hf"}},
		{"build q4_0 with adapter", childJob{Recipe: whole}},
	} {
		c.job.Out, c.job.Threads, c.job.MaxMemory = filepath.Join(dir, "out"), 2, limit
		res, err := child(t, c.job, 0)
		if err != nil || res.Err != "" {
			t.Fatalf("%s: %v %s", c.name, err, res.Err)
		}
		t.Logf("%s: %s in %s, %.0f s", c.name, human.Bytes(res.Report.Source.Bytes), human.Bytes(res.Peak), res.Report.Seconds)
		if res.Peak > limit || res.Peak == 0 {
			t.Errorf("%s: peak memory %s, the limit is %s", c.name, human.Bytes(res.Peak), human.Bytes(limit))
		}
		if err := os.RemoveAll(c.job.Out); err != nil {
			t.Fatal(err)
		}
	}
}

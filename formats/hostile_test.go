package formats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
)

// tinySafetensors is a file of two small tensors and one without elements.
func tinySafetensors() []byte {
	const head = `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},` +
		`"b.weight":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]},"c":{"dtype":"I8","shape":[0,3],"data_offsets":[24,24]}}`
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	for range 6 {
		b = append(b, 0, 0, 0x80, 0x3f)
	}
	return b
}

// allocated is what fn allocates in all, the garbage included.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// allowed is the most that opening a file may allocate: buffers and the tables of what is known,
// and a multiple of the bytes that are really there.
func allowed(n int) int64 { return 1<<20 + 64*int64(n) }

// TestClaims overwrites every place of small files with huge counts, lengths, offsets and shapes:
// nothing is allocated for what the file does not hold, nothing crashes, nothing takes long.
func TestClaims(t *testing.T) {
	for name, whole := range map[string][]byte{"x.gguf": tiny(t), "x.safetensors": tinySafetensors()} {
		path := filepath.Join(t.TempDir(), name)
		try := func(b []byte, what string, args ...any) {
			t.Helper()
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			n := allocated(func() {
				m, err := visit(t, path)
				var fe *fault.Error
				if m == nil && (!errors.As(err, &fe) || fe.File != path) {
					t.Errorf("%s, %s: the error does not name the file: %v", name, fmt.Sprintf(what, args...), err)
				}
			})
			if took := time.Since(start); n > allowed(len(b)) || took > 5*time.Second {
				t.Errorf("%s, %s: %d bytes allocated for a file of %d, in %v", name, fmt.Sprintf(what, args...), n, len(b), took)
			}
		}
		try(whole, "as it is")
		for at := 0; at+8 <= len(whole); at += 3 { // fields take 4 and 8 bytes: each is hit
			for _, v := range []uint64{1 << 40, 1<<63 - 1, 1<<64 - 1, 0, 1 << 31} {
				b := append([]byte(nil), whole...)
				if v == 1<<31 {
					binary.LittleEndian.PutUint32(b[at:], 1<<31-1)
				} else {
					binary.LittleEndian.PutUint64(b[at:], v)
				}
				try(b, "%d at byte %d", v, at)
			}
		}
		for n := range whole {
			try(whole[:n], "cut at %d", n)
		}
	}
}

// TestAbsurdConfigs: numbers in config.json that no file backs. The weights stay usable, the model
// is not runnable, and the reason is given; nothing is allocated or counted for the claim.
func TestAbsurdConfigs(t *testing.T) {
	from := filepath.Join(architectures, "llama")
	config := string(read(t, filepath.Join(from, "config.json")))
	for _, change := range [][2]string{
		{`"hidden_size": 256`, `"hidden_size": 2147483648`},
		{`"hidden_size": 256`, `"hidden_size": 0`},
		{`"hidden_size": 256`, `"hidden_size": -256`},
		{`"hidden_size": 256`, `"hidden_size": 1e300`},
		{`"hidden_size": 256`, `"hidden_size": 9223372036854775807`},
		{`"hidden_size": 256`, `"hidden_size": "256"`},
		{`"hidden_size": 256`, `"hidden_size": 256.5`},
		{`"num_hidden_layers": 2`, `"num_hidden_layers": 1000000000`},
		{`"num_hidden_layers": 2`, `"num_hidden_layers": 3`},
		{`"num_hidden_layers": 2`, `"num_hidden_layers": 0`},
		{`"num_hidden_layers": 2`, `"num_hidden_layers": -1`},
		{`"num_attention_heads": 8`, `"num_attention_heads": 0`},
		{`"num_attention_heads": 8`, `"num_attention_heads": 4294967304`},
		{`"num_key_value_heads": 2`, `"num_key_value_heads": 0`},
		{`"num_key_value_heads": 2`, `"num_key_value_heads": 3`},
		{`"head_dim": 32`, `"head_dim": 0`},
		{`"head_dim": 32`, `"head_dim": 33`},
		{`"head_dim": 32`, `"head_dim": 1073741824`},
		{`"intermediate_size": 256`, `"intermediate_size": 1099511627776`},
		{`"vocab_size": 304`, `"vocab_size": 9007199254740993`},
		{`"vocab_size": 304`, `"vocab_size": -304`},
		{`"rms_norm_eps": 1e-05`, `"rms_norm_eps": -1`},
		{`"rms_norm_eps": 1e-05`, `"rms_norm_eps": 1e999`},
		{`"rope_theta": 500000.0`, `"rope_theta": 0`},
		{`"rope_theta": 500000.0`, `"rope_theta": -1e308`},
		{`"factor": 8.0`, `"factor": 0`},
		{`"original_max_position_embeddings": 32`, `"original_max_position_embeddings": 0`},
		{`"max_position_embeddings": 256,`, `"max_position_embeddings": -5,`},
	} {
		changed := strings.Replace(config, change[0], change[1], 1)
		if changed == config {
			t.Fatalf("%s is not in the configuration", change[0])
		}
		dir := copyFolder(t, from, map[string][]byte{"config.json": []byte(changed)})
		start := time.Now()
		n := allocated(func() {
			m := open(t, dir)
			if m.Decoder != nil || len(m.Problems) == 0 {
				t.Errorf("%s: runnable, %+v, %v", change[1], m.Decoder, m.Problems)
			}
			if len(m.Tensors()) == 0 {
				t.Errorf("%s: no tensors", change[1])
			}
		})
		if took := time.Since(start); took > 5*time.Second || n > 32<<20 {
			t.Errorf("%s: %v, %d bytes allocated", change[1], took, n)
		}
	}
}

// TestHostileFolders: what a folder may hold in the place of its weights.
func TestHostileFolders(t *testing.T) {
	const index = `{"weight_map":{"a":%q,"b.weight":"model-2.safetensors"}}`
	link := func(target string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Symlink(target, filepath.Join(dir, oneName)); err != nil {
				t.Skip("no links here")
			}
		}
	}
	named := func(file string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, indexName), fmt.Appendf(nil, index, file), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "model-2.safetensors"), tinySafetensors(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		want error
	}{
		"link to itself":         {link(oneName), nil},
		"link to a folder":       {link(".."), mapped.ErrNotFile},
		"link to a device":       {link(os.DevNull), mapped.ErrNotFile},
		"link to nothing":        {link("gone"), fs.ErrNotExist},
		"index names itself":     {named(indexName), ErrShardName},
		"index goes up":          {named("../model.safetensors"), ErrShardName},
		"index goes up, Windows": {named(`..\model.safetensors`), ErrShardName},
		"index is absolute":      {named("/etc/x.safetensors"), ErrShardName},
		"index names a drive":    {named("C:x.safetensors"), ErrShardName},
		"index names a stream":   {named("a:b.safetensors"), ErrShardName},
		"index names a dot":      {named("."), ErrShardName},
		"index names nothing":    {named(""), ErrShardName},
		"index has a zero byte":  {named("a\x00.safetensors"), nil},
		"index names the absent": {named("model-1.safetensors"), fs.ErrNotExist},
		"pipe": {func(t *testing.T, dir string) {
			if err := exec.Command("mkfifo", filepath.Join(dir, oneName)).Run(); err != nil {
				t.Skip("no pipes in folders here")
			}
		}, mapped.ErrNotFile},
		"one tensor in two shards": {func(t *testing.T, dir string) {
			for _, f := range []string{"model-1.safetensors", "model-2.safetensors"} {
				if err := os.WriteFile(filepath.Join(dir, f), tinySafetensors(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, nil},
		"ranges overlap": {func(t *testing.T, dir string) {
			b := strings.Replace(string(tinySafetensors()), "[16,24]", "[ 8,16]", 1)
			if err := os.WriteFile(filepath.Join(dir, oneName), []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}, safetensors.ErrRange},
		"bad UTF-8": {func(t *testing.T, dir string) {
			b := strings.Replace(string(tinySafetensors()), "b.weight", "b.\xff\xfeight", 1)
			if err := os.WriteFile(filepath.Join(dir, oneName), []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}, safetensors.ErrHeader},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			if _, err := os.Lstat(filepath.Join(dir, "model-2.safetensors")); err != nil { // what makes it a model folder
				if err := os.WriteFile(filepath.Join(dir, "x.safetensors"), tinySafetensors(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() {
				m, err := Open(context.Background(), dir)
				if err == nil {
					err = m.Close()
				}
				done <- err
			}()
			var fe *fault.Error
			select {
			case err := <-done:
				if !errors.As(err, &fe) || !strings.HasPrefix(fe.File, dir) || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Error("opening does not come to an end")
			}
		})
	}
	// The cache of Hugging Face is made of links to files elsewhere: those are read.
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, tinySafetensors(), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link(file)(t, dir)
	if _, err := visit(t, dir); err != nil {
		t.Errorf("link to a file: %v", err)
	}
}

package quantize

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// Statistics are what an importance matrix file holds: for every linear layer the sum of squares of
// each of its inputs over the calibration tokens. The mean square is how much an error of a weight
// at that input matters to the output. Names are those of GGUF ("blk.0.attn_q.weight").
type Statistics struct {
	Layers    map[string]*InputStats
	Datasets  []string // calibration texts, as they were named
	Chunks    int      // sequences that were read
	ChunkSize int      // tokens in one
}

// InputStats are the sums for one tensor. A tensor of several matrices (experts) has one row of sums
// and one count for each.
type InputStats struct {
	Sums   []float32 // [matrices*in]
	Counts []float32 // tokens that each matrix saw
}

// Means is the mean square of each input; 1 for a matrix that never saw a token.
func (s *InputStats) Means() []float32 {
	out := make([]float32, len(s.Sums))
	in := len(s.Sums) / max(len(s.Counts), 1)
	for i, v := range s.Sums {
		out[i] = 1
		if c := s.Counts[i/in]; c > 0 {
			out[i] = v / c
		}
	}
	return out
}

// Importance is the mean squares of all tensors by name, as Request takes them.
func (s *Statistics) Importance() map[string][]float32 {
	m := make(map[string][]float32, len(s.Layers))
	for name, l := range s.Layers {
		m[name] = l.Means()
	}
	return m
}

// Keys of the GGUF form (llama.cpp, tools/imatrix/imatrix.cpp).
const (
	keyType      = "general.type"
	keyDatasets  = "imatrix.datasets"
	keyChunks    = "imatrix.chunk_count"
	keyChunkSize = "imatrix.chunk_size"
	suffixSums   = ".in_sum2"
	suffixCounts = ".counts"
)

var errNotImatrix = errors.New("not an importance matrix")

// ReadStatistics reads an importance matrix in GGUF form, or in the older form of llama.cpp.
func ReadStatistics(path string) (*Statistics, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fault.Error{File: path, Op: "imatrix", Err: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &fault.Error{File: path, Op: "imatrix", Err: err}
	}
	parse := parseStatistics
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != "GGUF" {
		parse = parseLegacy
	}
	s, err := parse(f, info.Size())
	if err != nil {
		return nil, &fault.Error{File: path, Op: "imatrix", Err: err, Hint: "pare calibrate MODEL --text FILE -o imatrix.gguf makes one"}
	}
	return s, nil
}

func parseStatistics(r io.ReaderAt, size int64) (*Statistics, error) {
	g, err := gguf.Parse(r, size)
	if err != nil {
		return nil, err
	}
	if v, _ := g.Value(keyType); v != "imatrix" {
		return nil, fmt.Errorf("%w: its %s is %v", errNotImatrix, keyType, v)
	}
	s := &Statistics{Layers: map[string]*InputStats{}}
	if v, ok := g.Value(keyDatasets); ok {
		s.Datasets, _ = v.([]string)
	}
	s.Chunks, s.ChunkSize = intOf(g, keyChunks), intOf(g, keyChunkSize)
	for i := range g.Tensors {
		t := &g.Tensors[i]
		name, ok := strings.CutSuffix(t.Name, suffixSums)
		if !ok {
			continue
		}
		counts, ok := g.Tensor(name + suffixCounts)
		if !ok {
			return nil, fmt.Errorf("tensor %q has no counts", name)
		}
		l := &InputStats{}
		if l.Sums, err = readFloats(r, t); err != nil {
			return nil, err
		}
		if l.Counts, err = readFloats(r, counts); err != nil {
			return nil, err
		}
		if len(l.Counts) == 0 || len(l.Sums) == 0 || len(l.Sums)%len(l.Counts) != 0 {
			return nil, fmt.Errorf("tensor %q has %d sums and %d counts", name, len(l.Sums), len(l.Counts))
		}
		for _, v := range slices.Concat(l.Sums, l.Counts) {
			if v-v != 0 || v < 0 {
				return nil, fmt.Errorf("tensor %q: %v: %w", name, v, fault.ErrNotFinite)
			}
		}
		s.Layers[name] = l
	}
	if len(s.Layers) == 0 {
		return nil, fmt.Errorf("%w: no tensor %q", errNotImatrix, "*"+suffixSums)
	}
	return s, nil
}

func intOf(g *gguf.File, key string) int {
	switch v, _ := g.Value(key); v := v.(type) {
	case uint32:
		return int(v)
	case int32:
		return int(v)
	}
	return 0
}

// readFloats reads a tensor of f32; Parse has checked that the file holds it.
func readFloats(r io.ReaderAt, t *gguf.Tensor) ([]float32, error) {
	if t.Type != 0 {
		return nil, fmt.Errorf("tensor %q is %s, not f32", t.Name, gguf.TypeName(t.Type))
	}
	b := make([]byte, t.Size)
	if _, err := r.ReadAt(b, t.Offset); err != nil {
		return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x, nil
}

// Write writes the GGUF form, tensors by name, as llama.cpp does.
func (s *Statistics) Write(w io.Writer) error {
	kv := []gguf.KV{
		{Key: keyType, Value: "imatrix"},
		{Key: keyDatasets, Value: append([]string{}, s.Datasets...)},
		{Key: keyChunks, Value: uint32(s.Chunks)},
		{Key: keyChunkSize, Value: uint32(s.ChunkSize)},
	}
	var tensors []gguf.Tensor
	var data [][]float32
	for _, name := range slices.Sorted(maps.Keys(s.Layers)) {
		l := s.Layers[name]
		sums, counts := []int{len(l.Sums)}, []int{1}
		if n := len(l.Counts); n > 1 {
			sums, counts = []int{n, len(l.Sums) / n}, []int{n, 1}
		}
		tensors = append(tensors, gguf.Tensor{Name: name + suffixSums, Shape: sums}, gguf.Tensor{Name: name + suffixCounts, Shape: counts})
		data = append(data, l.Sums, l.Counts)
	}
	buf := bufio.NewWriter(w)
	g, err := gguf.NewWriter(buf, kv, tensors)
	if err != nil {
		return err
	}
	for _, x := range data {
		b := make([]byte, 4*len(x))
		for i, v := range x {
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
		}
		if _, err := g.Write(b); err != nil {
			return err
		}
	}
	if err := g.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

// ggufName is the name of a tensor in GGUF files: its own or an alias.
func ggufName(t *ir.Tensor) string {
	for _, n := range append([]string{t.Name}, t.Aliases...) {
		if strings.HasPrefix(n, "blk.") || n == "output.weight" || n == "token_embd.weight" {
			return n
		}
	}
	return t.Name
}

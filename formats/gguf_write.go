package formats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

// ggufFile is a file that is ready to be written.
type ggufFile struct {
	kv      []gguf.KV
	infos   []gguf.Tensor
	handles []*ir.Tensor // data of infos
	notes   []string
}

func planGGUF(m *ir.Model, o WriteOptions) ([]string, error) {
	f, err := layGGUF(m, o)
	if err != nil {
		return nil, err
	}
	return f.notes, nil
}

func writeGGUF(ctx context.Context, m *ir.Model, path string, o WriteOptions) error {
	f, err := layGGUF(m, o)
	if err != nil {
		return err
	}
	return writeFile(path, func(out io.Writer) error {
		w, err := gguf.NewWriter(out, f.kv, f.infos)
		if err != nil {
			return err
		}
		if err := stream(ctx, w, f.handles, o); err != nil {
			return err
		}
		return w.Close()
	})
}

// stream writes the data of plain tensors one after the other.
func stream(ctx context.Context, w io.Writer, handles []*ir.Tensor, o WriteOptions) error {
	so := ir.StreamOptions{Threads: o.Threads, Memory: o.Memory, Progress: o.sink()}
	return ir.Stream(ctx, w, dataChunks(handles, so.BandMemory()), so)
}

func dataChunks(handles []*ir.Tensor, band int64) iter.Seq[ir.Chunk] {
	return func(yield func(ir.Chunk) bool) {
		for _, t := range handles {
			for c := range ir.Chunks(t, ir.PartData, band) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// layGGUF decides names, order, types and metadata.
func layGGUF(m *ir.Model, o WriteOptions) (*ggufFile, error) {
	f := &ggufFile{}
	a := arch.ByName(m.Arch)
	var err error
	switch {
	case m.Known() && a != nil:
		list := f.canonical
		if m.Encoder != nil {
			list = f.canonicalEncoder
		}
		if f.handles, err = list(m, a); err == nil {
			err = f.describe(m, a, o)
		}
	case m.Format == "gguf":
		f.handles = m.Tensors()
		f.copyMeta(m, o)
	default:
		return nil, &fault.Error{
			File: m.Path, Op: "gguf", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: GGUF needs a model that can be run: %w", ErrInexact, m.CannotRun())),
			Hint: "write a Hugging Face folder or safetensors instead",
		}
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, t := range f.handles {
		if len(t.Shape) == 1 && t.Scheme == nil && storage.MustLookup(t.Type).Float {
			t = widen(t) // llama.cpp keeps vectors in f32 and some of its operators need that
			f.handles[i] = t
		}
		info := storage.MustLookup(t.Type)
		if info.GGML < 0 || m.Known() && (t.Type == storage.F64 || !info.Float && info.BlockElems == 1) {
			errs = append(errs, &fault.Error{File: m.Path, Tensor: t.Name, Op: "gguf", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: llama.cpp computes with no %s", ErrInexact, t.Type)), Hint: "convert it to bf16 or f16, or choose a GGUF type"})
			continue
		}
		f.infos = append(f.infos, gguf.Tensor{Name: t.Name, Type: uint32(info.GGML), Shape: t.Shape}) //nolint:gosec // not negative
	}
	if len(errs) == 0 { // what the layout itself refuses: long names, more than four dimensions
		if _, err := gguf.Head(f.kv, f.infos); err != nil {
			errs = append(errs, &fault.Error{File: m.Path, Op: "gguf", Err: fault.As(fault.ErrRefused, err)})
		}
	}
	return f, errors.Join(errs...)
}

// canonical lists the tensors of a known architecture under their GGUF names, in the order of
// llama.cpp's converter (that of the Hugging Face names), with q and k rows as GGUF wants them.
func (f *ggufFile) canonical(m *ir.Model, a *arch.Arch) ([]*ir.Tensor, error) {
	var used []*ir.Tensor
	for _, t := range m.Tensors() {
		if t.Role == ir.RoleUnknown {
			if t.Name != ropeFactors {
				f.notes = append(f.notes, fmt.Sprintf("%s is not part of %s and is left out", t.Name, a.Name))
			}
			continue
		}
		used = append(used, t)
	}
	slices.SortStableFunc(used, func(x, y *ir.Tensor) int {
		px, bx := split(a, x)
		py, by := split(a, y)
		return cmp.Or(cmp.Compare(px, py), cmp.Compare(x.Block, y.Block), cmp.Compare(bx, by))
	})
	factors := m.Decoder.RopeFactors
	if factors == nil {
		factors = m.Decoder.RopeScaling.Factors(m.Decoder.RopeTheta, m.Decoder.HeadDim)
	}
	var out []*ir.Tensor
	if factors != nil {
		if !a.GGUF.RopeTensor {
			return nil, &fault.Error{File: m.Path, Op: "gguf", Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: llama.cpp reads no RoPE factors for %s", ErrInexact, a.GGUF.Arch))}
		}
		out = append(out, newVector(ropeFactors, factors))
	}
	for _, t := range used {
		if a.GGUF.Interleaved && turned(t.Role) {
			var err error
			if t, err = rotate(t, m.Decoder.HeadDim, false); err != nil {
				return nil, err
			}
		}
		c := *t
		c.Name = a.GGUFName(t.Role, t.Block)
		out = append(out, &c)
	}
	return out, nil
}

// split cuts the Hugging Face name of a tensor at its block number.
func split(a *arch.Arch, t *ir.Tensor) (before, after string) {
	name := a.HFName(t.Role, t.Block)
	if t.Block >= 0 {
		before, after, _ = strings.Cut(name, "."+strconv.Itoa(t.Block)+".")
		return before, after
	}
	return name, ""
}

func (f *ggufFile) has(key string) bool {
	return slices.ContainsFunc(f.kv, func(kv gguf.KV) bool { return kv.Key == key })
}

func (f *ggufFile) add(key string, v any) { f.kv = append(f.kv, gguf.KV{Key: key, Value: v}) }

// describe makes the metadata of a known architecture. Also keys that loaders would silently
// assume are written.
func (f *ggufFile) describe(m *ir.Model, a *arch.Arch, o WriteOptions) error {
	f.add("general.architecture", a.GGUF.Arch)
	f.add("general.type", "model")
	f.copyGeneral(m, o)
	f.add("general.size_label", sizeLabel(m.Parameters()))
	var keys []arch.KV
	var notes []string
	var err error
	vocab := 0
	if m.Encoder != nil {
		keys, notes, err = a.EncoderGGUFKeys(m.Encoder)
		vocab = m.Encoder.Vocab
	} else {
		keys, notes, err = a.GGUFKeys(m.Decoder)
		vocab = m.Decoder.Vocab
	}
	if err != nil {
		return &fault.Error{File: m.Path, Op: "gguf", Err: fault.As(fault.ErrRefused, err)}
	}
	f.notes = append(f.notes, notes...)
	for _, kv := range keys {
		f.add(kv.Key, kv.Value)
	}
	f.add("general.file_type", fileType(f.handles, o))
	f.add("general.quantization_version", uint32(2))
	return f.tokenizer(m, vocab, o)
}

// ownGeneral are the keys of general.* that are set anew; others of a GGUF source travel on.
var ownGeneral = []string{"general.architecture", "general.type", "general.name", "general.size_label", "general.file_type", "general.quantization_version", "general.alignment"}

func (f *ggufFile) copyGeneral(m *ir.Model, o WriteOptions) {
	name, _ := m.Meta["general.name"].(string)
	if o.Name != "" {
		name = o.Name
	}
	if name != "" {
		f.add("general.name", name)
	}
	if m.Format != "gguf" {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m.Meta)) {
		if strings.HasPrefix(key, "general.") && !slices.Contains(ownGeneral, key) {
			f.add(key, m.Meta[key])
		}
	}
}

// copyMeta takes over the metadata of a GGUF source whose architecture is not known.
func (f *ggufFile) copyMeta(m *ir.Model, o WriteOptions) {
	f.handles = slices.Clone(f.handles)
	if v, ok := m.Meta["general.architecture"]; ok {
		f.add("general.architecture", v)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Meta)) {
		switch key {
		case "general.architecture", "general.file_type", "general.quantization_version":
		case "general.name":
			if o.Name == "" {
				f.add(key, m.Meta[key])
			} else {
				f.add(key, o.Name)
			}
		default:
			f.add(key, m.Meta[key])
		}
	}
	f.add("general.file_type", fileType(f.handles, o))
	f.add("general.quantization_version", uint32(2))
}

// tokenizer adds the vocabulary. That of a GGUF source is copied as it is.
func (f *ggufFile) tokenizer(m *ir.Model, vocab int, o WriteOptions) error {
	refuse := func(err error, hint string) error {
		return &fault.Error{File: m.Path, Op: "gguf", Err: fault.As(fault.ErrRefused, err), Hint: hint}
	}
	if m.Format == "gguf" {
		for _, key := range slices.Sorted(maps.Keys(m.Meta)) {
			if strings.HasPrefix(key, "tokenizer.") && !f.has(key) {
				v := m.Meta[key]
				if key == "tokenizer.ggml.pre" && o.Pre != "" {
					v = o.Pre
				}
				f.add(key, v)
			}
		}
		return nil
	}
	if m.Tokenizer == nil {
		if m.Assets["tokenizer.json"] != nil || m.Assets["tokenizer.model"] != nil || m.Assets["vocab.txt"] != nil {
			return refuse(fmt.Errorf("%w: %w", ErrInexact, m.CannotRead()), "write a Hugging Face folder, which takes its files as they are")
		}
		f.notes = append(f.notes, "the source has no tokenizer: the file takes token ids only")
		f.add("tokenizer.ggml.model", "no_vocab")
		return nil
	}
	spec := *m.Tokenizer
	if o.Pre != "" {
		if err := spec.UsePre(o.Pre); err != nil {
			return refuse(fault.As(fault.ErrMisuse, err), "")
		}
	}
	spec.Tokens, spec.Types, spec.Scores = slices.Clone(spec.Tokens), slices.Clone(spec.Types), slices.Clone(spec.Scores)
	if err := spec.Pad(vocab); err != nil {
		return refuse(err, "")
	}
	kv, err := spec.GGUF()
	if err != nil {
		return refuse(err, "name the word splitting that fits with --pre, such as llama-bpe or qwen2")
	}
	for _, e := range kv {
		f.add(e.Key, e.Value)
	}
	f.notes = append(f.notes, spec.GGUFNotes()...)
	return nil
}

// fileType is what the user's preset says, or that of the type that most weights have.
func fileType(handles []*ir.Tensor, o WriteOptions) uint32 {
	if o.FileType != nil {
		return *o.FileType
	}
	count := map[*storage.Info]int64{}
	for _, t := range handles {
		if info := storage.MustLookup(t.Type); len(t.Shape) > 1 && info.Weights() {
			count[info] += t.Elems()
		}
	}
	var most *storage.Info
	for _, info := range storage.All() {
		if count[info] > count[most] {
			most = info
		}
	}
	if most == nil {
		return 0 // vectors only: f32
	}
	return uint32(most.FileType) //nolint:gosec // not negative
}

// sizeLabel writes a number of parameters as gguf-py does: two digits at least.
func sizeLabel(n int64) string {
	scaled, suffix := float64(n)*1e-3, "K"
	switch {
	case n > 1e12:
		scaled, suffix = float64(n)*1e-12, "T"
	case n > 1e9:
		scaled, suffix = float64(n)*1e-9, "B"
	case n > 1e6:
		scaled, suffix = float64(n)*1e-6, "M"
	}
	digits := strings.TrimLeft(strconv.FormatFloat(scaled, 'f', 0, 64), "0")
	return strconv.FormatFloat(scaled, 'f', max(0, 2-len(digits)), 64) + suffix
}

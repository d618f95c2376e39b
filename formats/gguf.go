package formats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/mapped"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

func init() {
	register(Format{
		Name: "gguf",
		Doc:  "GGML universal file, versions 2 and 3, split or not: what llama.cpp and its relatives run",
		Ext:  ".gguf",
		Sniff: func(p *Probe) bool {
			if p.Dir {
				_, ok := ggufInFolder(p)
				return ok && !p.HasExt(".safetensors")
			}
			return bytes.HasPrefix(p.Head, []byte("GGUF"))
		},
		Open:  openGGUF,
		Plan:  planGGUF,
		Write: writeGGUF,
	})
}

// splitName is how llama.cpp names the files of a split model.
var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// ErrSplit is the reason when the files of a split model do not fit together.
var ErrSplit = errors.New("the files of the split model do not fit together")

// ggufInFolder finds the one model of a folder: a single file, or the first of a split.
func ggufInFolder(p *Probe) (string, bool) {
	var found []string
	for _, n := range p.Names {
		if m := splitName.FindStringSubmatch(n); strings.HasSuffix(n, ".gguf") && (m == nil || m[2] == "00001") {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return "", false
	}
	return filepath.Join(p.Path, found[0]), true
}

func openGGUF(ctx context.Context, path string) (*ir.Model, error) {
	if p, err := probe(path); err == nil && p.Dir {
		path, _ = ggufInFolder(p)
	}
	m := &ir.Model{Path: path, Assets: map[string][]byte{}}
	if err := readGGUF(ctx, m, path); err != nil {
		return nil, errors.Join(inFile(path, "gguf", err), m.Close())
	}
	return m, nil
}

// opened is one file of a model.
type opened struct {
	path string
	f    *mapped.File
	head *gguf.File
}

func openOne(m *ir.Model, path string) (*opened, error) {
	f, err := mapped.Open(path)
	if err != nil {
		return nil, &fault.Error{File: path, Err: unpath(err)}
	}
	m.Owns(f)
	head, err := gguf.Parse(f, f.Size())
	if err != nil {
		hint := ""
		if errors.Is(err, gguf.ErrTruncated) {
			hint = "the file is cut short: copy it again"
		}
		return nil, &fault.Error{File: path, Op: "gguf", Err: err, Hint: hint}
	}
	return &opened{path, f, head}, nil
}

// openAll opens all files of a split model; path may be any of them.
func openAll(ctx context.Context, m *ir.Model, path string) ([]*opened, error) {
	first, err := openOne(m, path)
	if err != nil {
		return nil, err
	}
	v, _ := first.head.Value("split.count")
	count, _ := arch.Number(v)
	if count <= 1 {
		return []*opened{first}, nil
	}
	name := splitName.FindStringSubmatch(filepath.Base(path))
	if name == nil || name[3] != fmt.Sprintf("%05d", int(count)) {
		return nil, &fault.Error{File: path, Op: "gguf", Err: fmt.Errorf("%w: it is one of %v files and must be called NAME-00001-of-%05d.gguf or so", ErrSplit, count, int(count))}
	}
	var all []*opened
	tensors := 0
	for i := range int(count) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		file := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s-%05d-of-%s.gguf", name[1], i+1, name[3]))
		o := first
		if file != path {
			if o, err = openOne(m, file); err != nil {
				return nil, err
			}
		}
		no, _ := o.head.Value("split.no")
		of, _ := o.head.Value("split.count")
		if n, ok := arch.Number(no); !ok || int(n) != i {
			return nil, &fault.Error{File: file, Op: "gguf", Err: fmt.Errorf("%w: split.no is %v, not %d", ErrSplit, no, i)}
		}
		if n, _ := arch.Number(of); n != count {
			return nil, &fault.Error{File: file, Op: "gguf", Err: fmt.Errorf("%w: split.count is %v, not %v", ErrSplit, of, count)}
		}
		tensors += len(o.head.Tensors)
		all = append(all, o)
	}
	if want, ok := all[0].head.Value("split.tensors.count"); ok {
		if n, _ := arch.Number(want); int(n) != tensors {
			return nil, &fault.Error{File: path, Op: "gguf", Err: fmt.Errorf("%w: %d tensors, split.tensors.count is %v", ErrSplit, tensors, want)}
		}
	}
	return all, nil
}

// joined is the metadata of the first file with the tensors of all: an arch.Source.
type joined []*opened

func (j joined) Value(key string) (any, bool) { return j[0].head.Value(key) }

func (j joined) Shape(tensor string) ([]int, bool) {
	for _, o := range j {
		if s, ok := o.head.Shape(tensor); ok {
			return s, true
		}
	}
	return nil, false
}

func readGGUF(ctx context.Context, m *ir.Model, path string) error {
	files, err := openAll(ctx, m, path)
	if err != nil {
		return err
	}
	src := joined(files)
	m.Meta = make(map[string]any, len(files[0].head.KV))
	for _, kv := range files[0].head.KV {
		if !strings.HasPrefix(kv.Key, "split.") {
			m.Meta[kv.Key] = kv.Value
		}
	}
	if kind, ok := m.Meta["general.type"].(string); ok && kind != "model" {
		problemf(m, "", "the file says that it is a %s, not a model", kind)
	}
	a := readGGUFArch(m, src)
	handles, err := ggufHandles(ctx, m, a, files)
	if err != nil {
		return err
	}
	if m.Decoder != nil { // before rows are rearranged: that needs heads of the right size
		trial := &ir.Model{Path: m.Path, Decoder: m.Decoder}
		for _, t := range handles {
			if err := trial.Add(t); err != nil {
				return err
			}
		}
		if err := readFactors(ctx, trial); err != nil {
			return err
		}
		settle(trial)
		m.Decoder, m.NoDecoder, m.Problems = trial.Decoder, trial.NoDecoder, append(m.Problems, trial.Problems...)
	}
	defer settleEncoder(m)
	for _, t := range handles {
		if a != nil && a.GGUF.Interleaved && turned(t.Role) {
			if t, err = toHFOrder(m, t); err != nil {
				return err
			}
		}
		if err := m.Add(t); err != nil {
			return err
		}
	}
	if _, ok := src.Value("tokenizer.ggml.model"); ok {
		if m.Tokenizer, err = tokenizer.FromGGUF(src.Value); err != nil {
			mute(m, err)
		}
	}
	return nil
}

func readGGUFArch(m *ir.Model, src arch.Source) *arch.Arch {
	a, d, notes, err := arch.FromGGUF(src)
	if a != nil {
		m.Arch = a.Name
	} else {
		m.Arch, _ = m.Meta["general.architecture"].(string)
	}
	m.Decoder = d
	if err == nil && a.Encodes() {
		m.Encoder, notes, err = a.EncoderFromGGUF(src)
	}
	if err != nil {
		stop(m, err)
	}
	for _, n := range notes {
		problemf(m, "", "%s", n)
	}
	return a
}

// ggufHandles lists the tensors of all files as they lie.
func ggufHandles(ctx context.Context, m *ir.Model, a *arch.Arch, files []*opened) ([]*ir.Tensor, error) {
	var handles []*ir.Tensor
	for _, o := range files {
		for _, e := range o.head.Tensors {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			info, ok := storage.ByGGML(e.Type)
			if !ok {
				problemf(m, e.Name, "stored as %s, which pare does not read: left out", gguf.TypeName(e.Type))
				continue
			}
			t := &ir.Tensor{Name: e.Name, Block: -1, Shape: e.Shape, Type: info.Type}
			var err error
			if t.Data, err = newFileSource(o.f, e.Offset, t); err != nil {
				return nil, &fault.Error{File: o.path, Tensor: e.Name, Op: "gguf", Err: err}
			}
			handles = append(handles, t)
		}
	}
	if a != nil {
		n := roles{m: m, role: a.GGUFRole, other: a.HFName}
		for _, t := range handles {
			n.give(t)
		}
		n.report()
	}
	return handles, nil
}

// toHFOrder shows a q or k tensor in the row order of the IR. Without a Decoder the width of a
// head is not known; the tensor then goes without role and alias, since under those it would be
// taken for what it is not.
func toHFOrder(m *ir.Model, t *ir.Tensor) (*ir.Tensor, error) {
	if m.Decoder != nil {
		return rotate(t, m.Decoder.HeadDim, true)
	}
	c := *t
	c.Role, c.Aliases = ir.RoleUnknown, nil
	return &c, nil
}

// turned reports the roles whose rows RoPE turns.
func turned(r ir.Role) bool {
	return r == ir.RoleAttnQ || r == ir.RoleAttnK || r == ir.RoleAttnQBias || r == ir.RoleAttnKBias
}

// ropeFactors is the tensor that holds llama3 RoPE scaling in GGUF files.
const ropeFactors = "rope_freqs.weight"

// readFactors moves the RoPE factors of a file into the Decoder. The tensor stays in the catalogue.
func readFactors(ctx context.Context, m *ir.Model) error {
	t := m.Find(ropeFactors)
	if t == nil || m.Decoder == nil {
		return nil
	}
	if len(t.Shape) != 1 || t.Cols() != m.Decoder.HeadDim/2 {
		stop(m, &fault.Error{Tensor: t.Name, Err: fmt.Errorf("%w: %v, heads of %d elements need %d factors", ir.ErrShape, t.Shape, m.Decoder.HeadDim, m.Decoder.HeadDim/2)})
		return nil
	}
	x, err := ir.ReadAll(ctx, t)
	if err != nil {
		return err
	}
	for i, v := range x {
		if !(v > 0) || v-v != 0 {
			stop(m, &fault.Error{Tensor: t.Name, Err: fmt.Errorf("factor %d is %v", i, v)})
			return nil
		}
	}
	d := m.Decoder
	d.RopeFactors = x
	if s := arch.Llama3(x, d.RopeTheta, d.HeadDim, d.Context); s != nil && d.RopeScaling == nil && slices.Equal(x, s.Factors(d.RopeTheta, d.HeadDim)) {
		d.RopeScaling = s // to the last bit, so it is what the model was trained with
	}
	return nil
}

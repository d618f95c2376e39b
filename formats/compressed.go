package formats

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/arch"
)

func init() {
	register(Format{
		Name: "compressed-tensors",
		Doc:  "Hugging Face folder with int4 or int8 weights packed as vLLM, SGLang and transformers read them",
		Sniff: func(p *Probe) bool {
			if !p.Dir || !p.HasExt(".safetensors") || !p.Has("config.json") {
				return false
			}
			b, err := readSmall(filepath.Join(p.Path, "config.json"))
			return err == nil && quantMethod(b) == compressedTensors
		},
		Open:  openHF,
		Plan:  planCompressed,
		Write: writeCompressed,
	})
}

const compressedTensors = "compressed-tensors"

// packedConfig is the part of quantization_config that concerns weights.
type packedConfig struct {
	QuantMethod        string                 `json:"quant_method"`
	Format             string                 `json:"format"`
	QuantizationStatus string                 `json:"quantization_status"`
	ConfigGroups       map[string]packedGroup `json:"config_groups"`
	Ignore             []string               `json:"ignore"`
	KVCacheScheme      any                    `json:"kv_cache_scheme"`
}

type packedGroup struct {
	Targets           []string      `json:"targets"`
	Weights           packedWeights `json:"weights"`
	InputActivations  any           `json:"input_activations"`
	OutputActivations any           `json:"output_activations"`
}

type packedWeights struct {
	NumBits   int    `json:"num_bits"`
	Type      string `json:"type"`
	Symmetric bool   `json:"symmetric"`
	Strategy  string `json:"strategy"`
	GroupSize *int   `json:"group_size"`
	Dynamic   bool   `json:"dynamic"`
}

func quantMethod(config []byte) string {
	var c struct {
		Q struct {
			Method string `json:"quant_method"`
		} `json:"quantization_config"`
	}
	_ = json.Unmarshal(config, &c) // arch.FromHF reports what is wrong with the file
	return c.Q.Method
}

// packed reads the tensors of a folder whose weights are packed.
type packed struct{ groups []packedGroup }

// readPacked returns nil when the folder's weights are plain.
func readPacked(m *ir.Model, config []byte) (*packed, error) {
	switch method := quantMethod(config); method {
	case "":
		return nil, nil
	case compressedTensors:
	default:
		stop(m, fmt.Errorf("weights quantized by %q are not understood, and listed as they are stored", method))
		return nil, nil
	}
	var c struct {
		Q packedConfig `json:"quantization_config"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		stop(m, fmt.Errorf("quantization_config was not understood: %w", err))
		return nil, nil
	}
	switch c.Q.Format {
	case "pack-quantized", "int-quantized", "naive-quantized", "dense":
	default:
		stop(m, fmt.Errorf("weights in compressed-tensors' format %q are not understood, and listed as they are stored", c.Q.Format))
		return nil, nil
	}
	p := &packed{}
	names := make([]string, 0, len(c.Q.ConfigGroups))
	for name := range c.Q.ConfigGroups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		g := c.Q.ConfigGroups[name]
		if g.InputActivations != nil {
			problemf(m, "", "%s also quantizes activations when it runs; here only the weights are quantized", name)
		}
		p.groups = append(p.groups, g)
	}
	return p, nil
}

// join puts the planes of every weight under one handle, in the place of its codes.
func (p *packed) join(m *ir.Model, handles []*ir.Tensor) ([]*ir.Tensor, error) {
	byName := make(map[string]*ir.Tensor, len(handles))
	for _, t := range handles {
		byName[t.Name] = t
	}
	used := map[*ir.Tensor]bool{}
	joined := map[*ir.Tensor]*ir.Tensor{}
	for _, t := range handles {
		base, isPacked := strings.CutSuffix(t.Name, ".weight_packed")
		if !isPacked {
			var isWeight bool
			base, isWeight = strings.CutSuffix(t.Name, ".weight")
			if !isWeight || t.Type != storage.I8 || byName[base+".weight_scale"] == nil {
				continue
			}
		}
		j, err := p.one(base, t, byName, !isPacked)
		if err != nil {
			return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: compressedTensors, Err: err}
		}
		joined[t] = j
		for _, plane := range []string{".weight_scale", ".weight_shape", ".weight_zero_point"} {
			if x := byName[base+plane]; x != nil {
				used[x] = true
			}
		}
	}
	var out []*ir.Tensor
	for _, t := range handles {
		switch {
		case joined[t] != nil:
			out = append(out, joined[t])
		case !used[t]:
			out = append(out, t)
		}
	}
	return out, nil
}

// of lists the groups of the configuration that a module may belong to: the one that names it,
// else those whose regular expression fits, else those that target its class, else all (other
// tools write the names of fused modules).
func (p *packed) of(module string) []packedGroup {
	for _, fits := range []func(target string) bool{
		func(target string) bool { return target == module },
		func(target string) bool {
			pattern, ok := strings.CutPrefix(target, "re:")
			re, err := regexp.Compile("^(?:" + pattern + ")") // Python's re.match looks at the start only
			return ok && err == nil && re.MatchString(module)
		},
		func(target string) bool { return target == "Linear" },
	} {
		var found []packedGroup
		for _, g := range p.groups {
			if slices.ContainsFunc(g.Targets, fits) {
				found = append(found, g)
			}
		}
		if found != nil {
			return found
		}
	}
	return p.groups
}

func (p *packed) one(base string, words *ir.Tensor, byName map[string]*ir.Tensor, loose bool) (*ir.Tensor, error) {
	scale, shape := byName[base+".weight_scale"], byName[base+".weight_shape"]
	if scale == nil {
		return nil, fmt.Errorf("%w: %s.weight_scale is missing", errPacked, base)
	}
	if byName[base+".weight_g_idx"] != nil {
		return nil, fmt.Errorf("%w: columns in the order of %s.weight_g_idx are not read", errPacked, base)
	}
	k := packing{name: base + ".weight", words: words, scale: scale, zero: byName[base+".weight_zero_point"], loose: loose, groups: p.of(base)}
	if loose {
		k.rows, k.cols = words.Rows(), words.Cols()
		return k.handle()
	}
	if shape == nil || shape.Type != storage.I64 || shape.Elems() != 2 || len(shape.Shape) != 1 {
		return nil, fmt.Errorf("%w: %s.weight_shape is not two int64", errPacked, base)
	}
	var raw [16]byte
	if err := shape.Data.ReadRaw(context.Background(), ir.PartData, raw[:], 0, 1); err != nil { // 16 bytes: nothing to cancel
		return nil, err
	}
	for i, dst := range []*int{&k.rows, &k.cols} {
		v := binary.LittleEndian.Uint64(raw[8*i:])
		if v > 1<<31 {
			return nil, fmt.Errorf("%w: a dimension of %d", errPacked, v)
		}
		*dst = int(v) //nolint:gosec // checked above
	}
	return k.handle()
}

func planCompressed(m *ir.Model, o WriteOptions) ([]string, error) {
	f, err := layCompressed(m, o)
	if err != nil {
		return nil, err
	}
	return f.notes, nil
}

func writeCompressed(ctx context.Context, m *ir.Model, path string, o WriteOptions) error {
	f, err := layCompressed(m, o)
	if err != nil {
		return err
	}
	return f.write(ctx, path, fileMetadata(m), o)
}

func layCompressed(m *ir.Model, _ WriteOptions) (*folder, error) {
	f := &folder{assets: map[string][]byte{}}
	handles, err := f.handles(m)
	if err != nil {
		return nil, err
	}
	var errs []error
	some := false
	for _, t := range handles {
		var parts []part
		if t.Scheme != nil {
			some = true
			parts, err = packedParts(m, t)
		} else {
			parts = make([]part, 1)
			parts[0], err = plain(m, t)
		}
		f.parts, errs = append(f.parts, parts...), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var quantization any
	if some {
		quantization = describePacked(m, handles)
	} else {
		f.notes = append(f.notes, "no weight is quantized: the folder is an ordinary Hugging Face folder")
	}
	return f, f.sideFiles(m, handles, quantization)
}

// packedParts are the tensors that one quantized weight becomes.
func packedParts(m *ir.Model, t *ir.Tensor) ([]part, error) {
	s := *t.Scheme
	refuse := func(format string, args ...any) ([]part, error) {
		return nil, &fault.Error{File: m.Path, Tensor: t.Name, Op: compressedTensors, Err: fault.As(fault.ErrRefused, fmt.Errorf("%w: "+format, append([]any{ErrInexact}, args...)...))}
	}
	base, ok := strings.CutSuffix(t.Name, ".weight")
	scaleType, float := scaleDType(s.Scale)
	switch {
	case !ok || len(t.Shape) != 2:
		return refuse("only matrices called *.weight are packed, this is %v", t.Shape)
	case s.Bits != 4 && s.Bits != 8:
		return refuse("%d bits; 4 and 8 are packed", s.Bits)
	case s.Group > 0 && t.Cols()%s.Group != 0:
		return refuse("%d columns are not whole groups of %d", t.Cols(), s.Group)
	case !float:
		return refuse("scales stored as %s", s.Scale)
	case !s.Symmetric && s.Group == storage.GroupTensor:
		return refuse("one zero point for a whole tensor")
	}
	rows, cols := t.Rows(), t.Cols()
	groups := s.Groups(cols)
	row := packedRow(cols, s.Bits)
	scaleShape := []int{rows, groups}
	if s.Group == storage.GroupTensor {
		scaleShape = []int{1}
	}
	parts := []part{
		newPart(base+".weight_packed", "I32", []int{rows, row / 4}, func(band int64) iter.Seq[ir.Chunk] { return packChunks(t, row, band) }),
		newPart(base+".weight_scale", scaleType, scaleShape, func(band int64) iter.Seq[ir.Chunk] { return ir.Chunks(t, ir.PartScales, band) }),
		newPart(base+".weight_shape", "I64", []int{2}, func(int64) iter.Seq[ir.Chunk] {
			return func(yield func(ir.Chunk) bool) {
				yield(ir.Chunk{Tensor: t.Name, Size: 16, Fill: func(_ context.Context, dst []byte) error {
					binary.LittleEndian.PutUint64(dst, uint64(rows))     //nolint:gosec // not negative
					binary.LittleEndian.PutUint64(dst[8:], uint64(cols)) //nolint:gosec // not negative
					return nil
				}})
			}
		}),
	}
	if !s.Symmetric {
		parts = append(parts, newPart(base+".weight_zero_point", "I32", []int{packedRow(rows, s.Bits) / 4, groups}, func(int64) iter.Seq[ir.Chunk] {
			return func(yield func(ir.Chunk) bool) { yield(zeroChunk(t)) }
		}))
	}
	return parts, nil
}

// scaleDType is the dtype of scales, if it is one that runtimes take.
func scaleDType(t storage.Type) (string, bool) {
	switch t {
	case storage.F32:
		return "F32", true
	case storage.F16:
		return "F16", true
	case storage.BF16:
		return "BF16", true
	}
	return "", false
}

// packChunks packs codes a band at a time.
func packChunks(t *ir.Tensor, row int, band int64) iter.Seq[ir.Chunk] {
	bits, flip := t.Scheme.Bits, byte(0)
	if t.Scheme.Symmetric {
		flip = 1 << (bits - 1)
	}
	cols := t.Cols()
	return func(yield func(ir.Chunk) bool) {
		for _, b := range ir.Bands(t.Rows(), int64(cols)*4, band) {
			c := ir.Chunk{Tensor: t.Name, Size: (b.Hi - b.Lo) * row, Fill: func(ctx context.Context, dst []byte) error {
				codes := make([]byte, (b.Hi-b.Lo)*cols)
				if err := t.Data.ReadRaw(ctx, ir.PartCodes, codes, b.Lo, b.Hi); err != nil {
					return err
				}
				for i := range b.Hi - b.Lo {
					pack(dst[i*row:(i+1)*row], codes[i*cols:(i+1)*cols], bits, flip)
				}
				return nil
			}}
			if !yield(c) {
				return
			}
		}
	}
}

// zeroChunk packs the zero points of a tensor down their columns.
func zeroChunk(t *ir.Tensor) ir.Chunk {
	bits, rows, groups := t.Scheme.Bits, t.Rows(), t.Scheme.Groups(t.Cols())
	per := 32 / bits
	return ir.Chunk{Tensor: t.Name, Size: packedRow(rows, bits) * groups, Fill: func(ctx context.Context, dst []byte) error {
		zeros := make([]byte, rows*groups)
		if err := t.Data.ReadRaw(ctx, ir.PartZeros, zeros, 0, rows); err != nil {
			return err
		}
		words := make([]uint32, len(dst)/4)
		for r := range rows {
			for g := range groups {
				words[r/per*groups+g] |= uint32(zeros[r*groups+g]) << (r % per * bits)
			}
		}
		for i, w := range words {
			binary.LittleEndian.PutUint32(dst[4*i:], w)
		}
		return nil
	}}
}

// describePacked makes quantization_config. With one scheme the target is the class Linear and
// everything of that class that is not quantized is listed as ignored; with several, each names
// its modules.
func describePacked(m *ir.Model, handles []*ir.Tensor) packedConfig {
	c := packedConfig{QuantMethod: compressedTensors, Format: "pack-quantized", QuantizationStatus: "compressed", ConfigGroups: map[string]packedGroup{}, Ignore: []string{}}
	var schemes []storage.Scheme
	modules := map[storage.Scheme][]string{}
	for _, t := range handles {
		base, _ := strings.CutSuffix(t.Name, ".weight")
		switch {
		case t.Scheme != nil:
			if modules[*t.Scheme] == nil {
				schemes = append(schemes, *t.Scheme)
			}
			modules[*t.Scheme] = append(modules[*t.Scheme], base)
		case linear(t):
			c.Ignore = append(c.Ignore, base)
		}
	}
	if a := arch.ByName(m.Arch); a != nil && m.Role(ir.RoleHead, -1) == nil {
		if head, ok := strings.CutSuffix(a.HFName(ir.RoleHead, -1), ".weight"); ok {
			c.Ignore = append(c.Ignore, head) // tied: transformers still has the module
		}
	}
	for i, s := range schemes {
		g := packedGroup{Targets: []string{"Linear"}, Weights: packedWeights{NumBits: s.Bits, Type: "int", Symmetric: s.Symmetric}}
		if len(schemes) > 1 {
			g.Targets = modules[s]
		}
		switch s.Group {
		case storage.GroupTensor:
			g.Weights.Strategy = "tensor"
		case storage.GroupChannel:
			g.Weights.Strategy = "channel"
		default:
			g.Weights.Strategy = "group"
			size := s.Group
			g.Weights.GroupSize = &size
		}
		c.ConfigGroups["group_"+strconv.Itoa(i)] = g
	}
	return c
}

// linear reports a weight that transformers keeps in a Linear module.
func linear(t *ir.Tensor) bool {
	if t.Role == ir.RoleUnknown {
		return len(t.Shape) == 2 && strings.HasSuffix(t.Name, ".weight") && !strings.Contains(t.Name, "embed")
	}
	return t.Role.Linear() || t.Role == ir.RoleHead
}

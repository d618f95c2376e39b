package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Format{
		Name:  "onnx",
		Doc:   "ONNX graph (.onnx), operator sets 7 to 26, with external data beside it",
		Ext:   ".onnx",
		Sniff: func(p *Probe) bool { return !p.Dir && looksONNX(p.Head) },
		Open:  openONNX,
		Plan:  planONNX,
		Write: writeONNX,
	})
}

// Operator sets that pare knows, and the versions of the file format.
const (
	oldestOpset, newestOpset = 7, 26
	newestIR                 = int64(onnx.Version_IR_VERSION)
)

// looksONNX walks the fields at the beginning of a file: protocol buffers have no magic number, but the
// fields of a model have types, and its strings are text.
func looksONNX(head []byte) bool {
	fields := 0
	for b := head; len(b) > 0; fields++ {
		field, typ, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return fields > 1 && cutShort(tag)
		}
		b = b[tag:]
		want := protowire.BytesType
		switch field {
		case 1, 5: // ir_version, model_version
			want = protowire.VarintType
		case 2, 3, 4, 6, 7, 8, 14, 20, 25, 26:
		default:
			return false
		}
		if typ != want {
			return false
		}
		if typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return fields > 0 && cutShort(n)
			}
			if field == 1 && (v == 0 || v > 1000) {
				return false
			}
			b = b[n:]
			continue
		}
		size, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return fields > 0 && cutShort(n)
		}
		b = b[n:]
		part := b[:min(size, uint64(len(b)))]
		if text := field < 7; text && !printable(part) {
			return false
		}
		if len(part) < len(b) || size == uint64(len(b)) {
			b = b[len(part):]
			continue
		}
		return fields > 0 || field == 7 // it goes on beyond the head
	}
	return fields > 1
}

// cutShort reports a field that goes on beyond the bytes.
func cutShort(code int) bool { return errors.Is(protowire.ParseError(code), io.ErrUnexpectedEOF) }

// printable reports text, whose last rune may be cut.
func printable(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && len(b) >= utf8.UTFMax || unicode.IsControl(r) && !unicode.IsSpace(r) {
			return false
		}
		b = b[n:]
	}
	return true
}

func openONNX(ctx context.Context, path string) (*ir.Model, error) {
	m := &ir.Model{Path: path, Format: "onnx", Assets: map[string][]byte{}, Meta: map[string]any{}}
	f, err := onnx.Open(path)
	if err != nil {
		hint := ""
		if errors.Is(err, onnx.ErrTruncated) {
			hint = "copy the file again from where the model came from"
		}
		return nil, &fault.Error{File: path, Op: "onnx", Err: unpath(err), Hint: hint}
	}
	if err := readONNX(ctx, m, f); err != nil {
		return nil, errors.Join(inFile(path, "onnx", err), f.Close())
	}
	m.Owns(f) // after reading, when the files beside it are open: their sizes count
	return m, nil
}

// readONNX fills the model: the graph, and a handle for each weight.
func readONNX(ctx context.Context, m *ir.Model, f *onnx.File) error {
	r := newONNXReader(ctx, m, f)
	var err error
	if m.Graph, err = r.model(); err != nil {
		return err
	}
	m.NoDecoder = errGraph
	onnxMeta(m, f.Model)
	for _, w := range r.weights {
		if err := r.bind(w); err != nil {
			return err
		}
	}
	m.Graph.Extra = &onnxExtra{file: f, digest: digestGraph(m.Graph)}
	return nil
}

// errGraph is why an ONNX model does not run as a language model.
var errGraph = errors.New("the model is a graph of operators, not a language model of a known architecture")

// onnxExtra is what the writer needs of the file that a graph was read from.
type onnxExtra struct {
	file   *onnx.File
	digest uint64 // of the graph as it was read
}

// DataFiles lists the files beside an ONNX model that its weights lie in, sorted.
func DataFiles(m *ir.Model) []string {
	if m.Graph == nil {
		return nil
	}
	extra, ok := m.Graph.Extra.(*onnxExtra)
	if !ok {
		return nil
	}
	files := extra.file.External()
	for i, f := range files {
		files[i] = filepath.Join(filepath.Dir(m.Path), filepath.FromSlash(f))
	}
	return files
}

func onnxMeta(m *ir.Model, p *onnx.ModelProto) {
	set := func(key string, v any, present bool) {
		if present {
			m.Meta[key] = v
		}
	}
	set("ir_version", p.GetIrVersion(), p.IrVersion != nil)
	set("producer_name", p.GetProducerName(), p.GetProducerName() != "")
	set("producer_version", p.GetProducerVersion(), p.GetProducerVersion() != "")
	set("domain", p.GetDomain(), p.GetDomain() != "")
	set("model_version", p.GetModelVersion(), p.GetModelVersion() != 0)
	set("doc_string", p.GetDocString(), p.GetDocString() != "")
	set("graph_name", p.Graph.GetName(), p.Graph.GetName() != "")
	for k, v := range m.Graph.Meta {
		m.Meta["metadata."+k] = v
	}
	if v := p.GetIrVersion(); v > newestIR {
		problemf(m, "", "the file is of IR version %d, pare knows up to %d: what is new in it is not read", v, newestIR)
	}
	if v, ok := m.Graph.Opset[""]; ok && (v < oldestOpset || v > newestOpset) {
		problemf(m, "", "operator set %d: pare knows %d to %d, operators of others may mean something else", v, oldestOpset, newestOpset)
	}
	if n := len(p.TrainingInfo); n > 0 {
		problemf(m, "", "the file has %d training graphs, which pare does not look at", n)
	}
}

// storedType is the stored type of elements, "" for those that pare has none for.
func storedType(t graph.DType) storage.Type {
	return map[graph.DType]storage.Type{
		graph.Float32: storage.F32, graph.Float64: storage.F64, graph.Float16: storage.F16, graph.BFloat16: storage.BF16,
		graph.F8E4M3FN: storage.F8E4M3, graph.F8E5M2: storage.F8E5M2, graph.Bool: storage.Bool,
		graph.Int8: storage.I8, graph.Uint8: storage.U8, graph.Int16: storage.I16, graph.Uint16: storage.U16,
		graph.Int32: storage.I32, graph.Uint32: storage.U32, graph.Int64: storage.I64, graph.Uint64: storage.U64,
	}[t]
}

// onnxWeight is a constant with the place of its data.
type onnxWeight struct {
	value *graph.Value
	data  *onnx.Data
}

// bind lists a constant in the catalogue, unless its type is one that pare stores no weights in
// (strings, 4-bit numbers): such a constant lies in the graph alone.
func (r *onnxReader) bind(w onnxWeight) error {
	c := w.value.Const
	typ := storedType(c.Type)
	if typ == "" {
		return nil
	}
	name := w.value.Name
	for r.m.Find(name) != nil { // branches may use one name each
		r.listed[w.value.Name]++
		name = fmt.Sprintf("%s#%d", w.value.Name, r.listed[w.value.Name]+1)
	}
	t := &ir.Tensor{Name: name, Block: -1, Shape: slices.Clone(c.Shape), Type: typ}
	if w.data.File != nil {
		src, err := newFileSource(w.data.File, w.data.Offset, t)
		if err != nil {
			return &fault.Error{Tensor: name, Err: err}
		}
		t.Data = src
	} else {
		t.Data = &memorySource{b: c.Data, info: storage.MustLookup(typ), rows: t.Rows(), cols: t.Cols()}
	}
	return r.m.Bind(w.value, t)
}

// memorySource is a tensor of a plain type in memory.
type memorySource struct {
	b          []byte
	info       *storage.Info
	rows, cols int
}

func (s *memorySource) part(lo, hi int) []byte {
	row := s.cols * s.info.BlockBytes
	return s.b[lo*row : hi*row : hi*row]
}

// ReadRows implements ir.Source.
func (s *memorySource) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	s.info.Read(dst, s.part(lo, hi))
	return nil
}

// ReadRaw implements ir.Source.
func (s *memorySource) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	if err := ir.CheckRange(s.rows, lo, hi); err != nil {
		return err
	}
	copy(dst, s.part(lo, hi))
	return nil
}

// MapRaw implements ir.Mapped.
func (s *memorySource) MapRaw(_ ir.Part, lo, hi int) ([]byte, bool) {
	if ir.CheckRange(s.rows, lo, hi) != nil {
		return nil, false
	}
	return s.part(lo, hi), true
}

// DropRaw implements ir.Mapped: the bytes are the only ones.
func (s *memorySource) DropRaw(ir.Part, int, int) {}

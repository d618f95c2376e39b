package formats

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats/onnx"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

const backend = "../testdata/onnx-backend/"

// Every conformance model of ONNX reads as the onnx package reads it: facts.txt has a digest of every node,
// edge, attribute and constant. Written back as it was, and put together anew from its graph, it still does.
func TestONNXBackend(t *testing.T) {
	facts, dataFacts := map[string]string{}, map[string]string{}
	b, err := os.ReadFile(backend + "facts.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		facts[words[2]], dataFacts[words[2]] = words[0], words[1]
	}
	dir := t.TempDir()
	ctx := context.Background()
	z, err := zip.OpenReader(backend + "cases.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	models := 0
	for _, e := range z.File {
		if !strings.HasSuffix(e.Name, ".onnx") {
			continue
		}
		models++
		in := filepath.Join(dir, "model.onnx")
		if err := os.WriteFile(in, content(t, e), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Open(ctx, in)
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		text := graphText(m.Graph)
		if digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]; digest != facts[e.Name] {
			t.Errorf("%s: digest %s, want %s\n%s", e.Name, digest, facts[e.Name], text)
		}
		data := dataText(t, z, e.Name, m.Graph)
		if digest := fmt.Sprintf("%x", sha256.Sum256([]byte(data)))[:16]; digest != dataFacts[e.Name] {
			t.Errorf("%s: inputs and outputs: digest %s, want %s\n%s", e.Name, digest, dataFacts[e.Name], data)
		}
		for _, anew := range []bool{false, true} {
			if anew {
				m.Graph.Extra.(*onnxExtra).digest++ // as if a pass had changed it
			}
			back, err := rewritten(ctx, m)
			if err != nil {
				t.Errorf("%s, anew %v: %v", e.Name, anew, err)
				continue
			}
			if got := graphText(back.Graph); got != text {
				t.Errorf("%s, anew %v: before\n%s\nafter\n%s", e.Name, anew, text, got)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if models != 1010 || len(facts) != models {
		t.Errorf("%d models, %d facts", models, len(facts))
	}
}

// rewritten is the model as it reads after it was written.
func rewritten(ctx context.Context, m *ir.Model) (*ir.Model, error) {
	w, err := layONNX(m, WriteOptions{}, "")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := w.layout.WriteModel(ctx, &b); err != nil {
		return nil, err
	}
	if int64(b.Len()) != w.layout.Size {
		return nil, fmt.Errorf("%d bytes, %d announced", b.Len(), w.layout.Size)
	}
	f, err := onnx.Parse(b.Bytes())
	if err != nil {
		return nil, err
	}
	back := &ir.Model{Meta: map[string]any{}}
	return back, readONNX(ctx, back, f)
}

func content(t *testing.T, e *zip.File) []byte {
	t.Helper()
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dataText is what make_facts.py says of the inputs and outputs of a case.
func dataText(t *testing.T, z *zip.ReadCloser, name string, g *graph.Graph) string {
	t.Helper()
	folder := path.Dir(name) + "/test_data_set_"
	var lines []string
	for _, e := range z.File {
		rest, ok := strings.CutPrefix(e.Name, folder)
		if !ok {
			continue
		}
		_, file, _ := strings.Cut(strings.TrimSuffix(rest, ".pb"), "/")
		which, place, _ := strings.Cut(file, "_")
		i, err := strconv.Atoi(place)
		if err != nil {
			t.Fatal(err)
		}
		v := g.Outputs[min(i, len(g.Outputs)-1)]
		if which == "input" {
			v = g.Inputs[i]
		}
		list, some, err := ONNXValue(content(t, e), v.Kind)
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		words := make([]string, len(list))
		for i, x := range list {
			words[i] = textOfTensor(x)
		}
		text := strings.Join(words, " ")
		if v.Kind == graph.KindSequence || v.Kind == graph.KindOptionalSequence && some {
			text = "seq(" + text + ")"
		}
		if v.Kind == graph.KindOptional || v.Kind == graph.KindOptionalSequence {
			text = "opt(" + text + ")"
		}
		lines = append(lines, rest+" "+text+"\n")
	}
	return strings.Join(lines, "")
}

// graphText is the text that make_facts.py describes.
func graphText(g *graph.Graph) string {
	var b strings.Builder
	for _, d := range slices.Sorted(maps.Keys(g.Opset)) {
		fmt.Fprintf(&b, "opset %s %d\n", d, g.Opset[d])
	}
	textOfGraph(&b, g)
	return b.String()
}

func textOfGraph(b *strings.Builder, g *graph.Graph) {
	for _, v := range g.Inputs {
		typ := textOfType(v)
		if v.Const != nil {
			typ = textOfTensor(v.Const)
		}
		fmt.Fprintf(b, "input %s %s\n", v.Name, typ)
	}
	for _, n := range g.Nodes {
		fmt.Fprintf(b, "node %s %s: %s -> %s\n", n.Op, n.Domain, textOfValues(n.In), textOfValues(n.Out))
		for _, name := range slices.Sorted(maps.Keys(n.Attrs)) {
			textOfAttr(b, name, n.Attrs[name])
		}
	}
	for _, v := range g.Outputs {
		if v.Const != nil {
			fmt.Fprintf(b, "output %s\n", textOfTensor(v.Const))
		} else {
			fmt.Fprintf(b, "output %s %s\n", v.Name, textOfType(v))
		}
	}
}

func textOfValues(list []*graph.Value) string {
	words := make([]string, len(list))
	for i, v := range list {
		switch {
		case v == nil:
			words[i] = "-"
		case v.Const != nil:
			words[i] = textOfTensor(v.Const)
		default:
			words[i] = v.Name
		}
	}
	return strings.Join(words, " ")
}

func textOfTensor(t *graph.Tensor) string {
	data := t.Data
	if t.Type == graph.String {
		data = nil
		for _, s := range t.Strings {
			data = append(binary.LittleEndian.AppendUint32(data, uint32(len(s))), s...)
		}
	}
	shape := strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ", ")
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%d%s:%x", t.Type, shape, sum[:8])
}

func textOfType(v *graph.Value) string {
	dims := "?"
	if v.Shape != nil {
		var words []string
		for _, d := range *v.Shape {
			switch {
			case d.Size >= 0:
				words = append(words, fmt.Sprint(d.Size))
			case d.Name != "":
				words = append(words, d.Name)
			default:
				words = append(words, "?")
			}
		}
		dims = "[" + strings.Join(words, " ") + "]"
	}
	text := fmt.Sprintf("%d%s", v.Type, dims)
	switch v.Kind {
	case graph.KindSequence:
		return "seq(" + text + ")"
	case graph.KindOptional:
		return "opt(" + text + ")"
	case graph.KindOptionalSequence:
		return "opt(seq(" + text + "))"
	case graph.KindOther:
		return "other"
	}
	return text
}

func textOfAttr(b *strings.Builder, name string, a graph.Attr) {
	var words []string
	switch a.Kind {
	case graph.AttrFloat:
		words = append(words, fmt.Sprintf("%08x", math.Float32bits(a.Float)))
	case graph.AttrInt:
		words = append(words, fmt.Sprint(a.Int))
	case graph.AttrString:
		words = append(words, fmt.Sprintf("%x", a.String))
	case graph.AttrTensor:
		words = append(words, textOfTensor(a.Tensor))
	case graph.AttrFloats:
		for _, v := range a.Floats {
			words = append(words, fmt.Sprintf("%08x", math.Float32bits(v)))
		}
	case graph.AttrInts:
		for _, v := range a.Ints {
			words = append(words, fmt.Sprint(v))
		}
	case graph.AttrStrings:
		for _, s := range a.Strings {
			words = append(words, fmt.Sprintf("%x", s))
		}
	case graph.AttrTensors:
		for _, t := range a.Tensors {
			words = append(words, textOfTensor(t))
		}
	}
	fmt.Fprintf(b, "attr %s %d", name, a.Kind)
	switch a.Kind {
	case graph.AttrGraph, graph.AttrGraphs, graph.AttrOther:
	default:
		fmt.Fprintf(b, " %s", strings.Join(words, " "))
	}
	b.WriteByte('\n')
	for _, g := range append([]*graph.Graph{a.Graph}, a.Graphs...) {
		if g != nil {
			textOfGraph(b, g)
		}
	}
}

// Real networks read as the onnx package reads them, and their weights are listed.
func TestONNXGraphs(t *testing.T) {
	b, err := os.ReadFile("../testdata/graphs/facts.txt")
	if err != nil {
		t.Fatal(err)
	}
	weights := map[string]int64{"mnist": 5994, "yunet": 73848, "dtln": 363393, "magika": 784223} // float values, by their publishers' files
	for line := range strings.Lines(string(b)) {
		digest, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		m, err := Open(t.Context(), filepath.Join("../testdata/graphs", name))
		if err != nil {
			t.Error(err)
			continue
		}
		text := graphText(m.Graph)
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]; got != digest {
			t.Errorf("%s: digest %s, want %s", name, got, digest)
		}
		back, err := rewritten(t.Context(), m)
		if err != nil || graphText(back.Graph) != text {
			t.Errorf("%s: written and read again it differs: %v", name, err)
		}
		floats := int64(0)
		for _, x := range m.Tensors() {
			if x.Type == storage.F32 {
				floats += x.Elems()
			}
		}
		if want := weights[path.Dir(name)]; want > 0 && floats != want {
			t.Errorf("%s: %d float values in the catalogue, want %d", name, floats, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

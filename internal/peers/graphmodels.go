package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/samples"
)

// network is a real network of the repository, and what both sides feed it.
type network struct {
	name, model string
	given       []samples.Given
	recipe      string
	most        int // samples
	vary        func(first ir.Sample, i int) ir.Sample
	// fetched makes the file and the samples of a network that the repository does not have.
	fetched func(b *bench, n network) (path string, list []ir.Sample, err error)
	// dominated says that arithmetic takes most of the time, so that integers have to pay.
	dominated bool
}

const graphData = "testdata/graphs"

func given(pairs ...string) (list []samples.Given) {
	for i := 0; i < len(pairs); i += 2 {
		value := pairs[i+1]
		if filepath.Ext(value) != "" {
			value = filepath.Join(graphData, value)
		}
		list = append(list, samples.Given{Input: pairs[i], Values: []string{value}})
	}
	return list
}

// networks in the order of the table.
var networks = []network{
	{name: "MNIST", model: "mnist/mnist-8.onnx", given: given("", "mnist/images-idx3-ubyte.gz"), most: 200},
	{name: "YuNet 320", model: "yunet/yunet_n_320_320.onnx", given: given("", "yunet/astronaut.png"), recipe: "yunet/recipe.toml", most: 32, vary: rolled},
	{name: "YuNet 640", model: "yunet/yunet_n_640_640.onnx", given: given("", "yunet/astronaut.png"), recipe: "yunet/recipe.toml", most: 8, vary: rolled, dominated: true},
	{name: "magika", model: "magika/model.onnx", given: given("", "magika/inputs.npy"), most: 64, dominated: true},
	{name: "Silero", model: "silero/silero_vad_16k_op15.onnx", given: given("input", "silero/speech.wav"), recipe: "silero/recipe.toml", most: 64},
	{name: "DTLN", model: "dtln/model_1.onnx", given: given("input_2", "dtln/magnitudes.npy", "input_3", "zeros"), most: 120},
	{name: "MiniLM", most: 32, fetched: miniLM, dominated: true},
}

// rolled shifts a picture to the side, so that one is many.
func rolled(first ir.Sample, i int) ir.Sample {
	out := ir.Sample{}
	for name, t := range first {
		width := t.Shape[len(t.Shape)-1]
		shifted := graph.New(t.Type, t.Shape...)
		x, y := graph.Of[float32](t), graph.Of[float32](shifted)
		for at := range y {
			row := at - at%width
			y[at] = x[row+(at%width+16*i)%width]
		}
		out[name] = shifted
	}
	return out
}

// fed is a network with its samples, as files for the peer.
type fed struct {
	network
	path    string
	folder  string // SAMPLES of graphs.py
	samples []ir.Sample
	inputs  []string
}

// feed makes the samples and writes an array an input, all samples of it behind each other.
func (b *bench) feed(n network) (*fed, error) {
	f := &fed{network: n, path: filepath.Join(graphData, n.model), folder: filepath.Join(b.cache, "graphs", n.name)}
	if n.fetched != nil {
		var err error
		if f.path, f.samples, err = n.fetched(b, n); err != nil {
			return nil, err
		}
	}
	m, err := formats.Open(b.ctx, f.path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	p, err := eval.Compile(m.Graph, eval.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	if n.fetched == nil {
		if err := b.sample(f, p.Inputs()); err != nil {
			return nil, err
		}
	}
	for _, v := range p.Inputs() {
		if f.samples[0][v.Name] != nil {
			f.inputs = append(f.inputs, v.Name)
		}
	}
	return f, f.write()
}

// sample reads the samples of a network of the repository.
func (b *bench) sample(f *fed, inputs []*graph.Value) error {
	n, opt := f.network, samples.Options{Split: true}
	if n.recipe != "" {
		r, err := recipe.Load(filepath.Join(graphData, n.recipe))
		if err != nil {
			return err
		}
		opt.Preprocess = r.Preprocess
	}
	set, err := samples.Open(inputs, n.given, opt)
	if err != nil {
		return err
	}
	defer set.Close()
	for i := range n.most {
		var s ir.Sample
		switch {
		case n.vary != nil && i > 0:
			s = n.vary(f.samples[0], i)
		case i < set.Len():
			if s, err = set.Sample(b.ctx, i); err != nil {
				return err
			}
		}
		if s == nil {
			break
		}
		own := ir.Sample{} // the set hands out one at a time
		for name, t := range s {
			own[name] = graph.New(t.Type, t.Shape...)
			copy(own[name].Data, t.Data)
		}
		f.samples = append(f.samples, own)
	}
	return nil
}

func (f *fed) write() error {
	if err := os.MkdirAll(f.folder, 0o755); err != nil { //nolint:gosec // a cache like any other
		return err
	}
	index := ""
	for i, name := range f.inputs {
		first := f.samples[0][name]
		_, elem, err := samples.Stored(first)
		if err != nil {
			return err
		}
		file := fmt.Sprintf("%d.npy", i)
		w, err := npy.Create(filepath.Join(f.folder, file), elem, append([]int{len(f.samples)}, first.Shape...)...)
		if err != nil {
			return err
		}
		for _, s := range f.samples {
			if _, e := w.Write(s[name].Data); e != nil {
				err = e
			}
		}
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
		index += file + " " + name + "\n"
	}
	return os.WriteFile(filepath.Join(f.folder, "index"), []byte(index), 0o644) //nolint:gosec // a cache like any other
}

// calibration are the flags that give pare the same samples.
func (f *fed) calibration() (flags []string) {
	for i, name := range f.inputs {
		flags = append(flags, "--calibration", fmt.Sprintf("%s=%s", name, filepath.Join(f.folder, fmt.Sprintf("%d.npy", i))))
	}
	return flags
}

// program is a graph in pare's runner, in this process.
type program struct {
	model  *ir.Model
	p      *eval.Program
	inputs [][]eval.Value
	at     int
}

func (f *fed) open(ctx context.Context, path string, pool *par.Pool) (*program, error) {
	m, err := formats.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	p, err := eval.Compile(m.Graph, eval.Options{Pool: pool})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	r := &program{model: m, p: p}
	for _, s := range f.samples {
		var list []eval.Value
		for _, v := range p.Inputs() {
			if t := s[v.Name]; t != nil {
				list = append(list, eval.Of(t))
			} else {
				list = append(list, eval.Value{})
			}
		}
		r.inputs = append(r.inputs, list)
	}
	return r, nil
}

func (r *program) run(ctx context.Context) error {
	in := r.inputs[r.at]
	if r.at++; r.at == len(r.inputs) {
		r.at = 0
	}
	_, err := r.p.Run(ctx, in...)
	return err
}

func (r *program) close() {
	if r != nil {
		_ = r.model.Close() // read only
	}
}

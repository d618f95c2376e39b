package eval

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

// Networks with states come to what ONNX Runtime computed, after a hundred steps, too.

func TestRealSpeech(t *testing.T) {
	wav, err := os.ReadFile(filepath.Join(realGraphs, "silero/speech.wav"))
	if err != nil {
		t.Fatal(err)
	}
	samples := wav[bytes.Index(wav, []byte("data"))+8:]
	want := npy[float32](t, "silero/probabilities.npy")
	const chunk, before, n = 512, 64, 100 // of 250 chunks
	ways(t, realModel(t, "silero/silero_vad_16k_op15.onnx"), func(t *testing.T, p *Program) {
		x, state := graph.New(graph.Float32, 1, before+chunk), graph.New(graph.Float32, 2, 1, 128)
		rate := graph.From(graph.Int64, []int64{16000})
		var got []float32
		for i := range n {
			in := graph.Of[float32](x)
			copy(in, in[chunk:])
			for k := range chunk {
				in[before+k] = float32(int16(binary.LittleEndian.Uint16(samples[2*(i*chunk+k):]))) / 32768
			}
			out := outputs(t, p, x, state, rate)
			got = append(got, graph.Of[float32](out[0])[0])
			copy(state.Data, out[1].Data)
		}
		closeTo(t, "probabilities", got, want[:n], 1e-4)
	})
}

func TestRealNoise(t *testing.T) {
	in, want, last := npy[float32](t, "dtln/magnitudes.npy"), npy[float32](t, "dtln/masks.npy"), npy[float32](t, "dtln/state.npy")
	ways(t, realModel(t, "dtln/model_1.onnx"), func(t *testing.T, p *Program) {
		state := graph.New(graph.Float32, 1, 2, 128, 2)
		var got []float32
		for i := range 120 {
			out := outputs(t, p, tensorOf(graph.Float32, in[i*257:(i+1)*257], 1, 1, 257), state)
			got = append(got, graph.Of[float32](out[0])...)
			copy(state.Data, out[1].Data)
		}
		closeTo(t, "masks", got, want, 1e-4)
		closeTo(t, "state", graph.Of[float32](state), last, 1e-4)
	})
}

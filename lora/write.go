package lora

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/diskfile"
	"github.com/pare-dev/pare/internal/fault"
)

// Trained is the change of one module that is to be written.
type Trained struct {
	Module  string // as the base names it, without ".weight": "model.layers.0.self_attn.q_proj"
	In, Out int
	A, B    []float32 // [rank,In] and [Out,rank]
}

// Fresh describes an adapter that is to be written.
type Fresh struct {
	Base   string // name of the base model
	Rank   int
	Alpha  float64
	RSLoRA bool
	Leaves []string // last segments of the modules' names: "q_proj"
}

// fresh is adapter_config.json of such an adapter: the keys that PEFT needs, in its order.
type fresh struct {
	Base      string   `json:"base_model_name_or_path"`
	Bias      string   `json:"bias"`
	FanInOut  bool     `json:"fan_in_fan_out"`
	Inference bool     `json:"inference_mode"`
	Alpha     float64  `json:"lora_alpha"`
	Dropout   float64  `json:"lora_dropout"`
	Saved     []string `json:"modules_to_save"`
	Type      string   `json:"peft_type"`
	Rank      int      `json:"r"`
	Targets   []string `json:"target_modules"`
	Task      string   `json:"task_type"`
	DoRA      bool     `json:"use_dora"`
	RSLoRA    bool     `json:"use_rslora"`
}

// Write makes the folder of an adapter as PEFT reads it, in a place where nothing lies: adapter_config.json
// and adapter_model.safetensors, float32, tensors in order of name.
func Write(dir string, f Fresh, modules []Trained) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return &fault.Error{File: dir, Op: "write", Err: err}
	}
	targets := slices.Clone(f.Leaves)
	slices.Sort(targets)
	config, err := json.MarshalIndent(fresh{
		Base: f.Base, Bias: "none", Inference: true, Alpha: f.Alpha, Type: "LORA", Rank: f.Rank,
		Targets: targets, Task: "CAUSAL_LM", RSLoRA: f.RSLoRA,
	}, "", "  ")
	if err != nil {
		return &fault.Error{File: dir, Op: "write", Err: err}
	}
	file := filepath.Join(dir, "adapter_config.json")
	if err := os.WriteFile(file, append(config, '\n'), 0o644); err != nil { //nolint:gosec // as other models
		return &fault.Error{File: file, Op: "write", Err: err}
	}
	file = filepath.Join(dir, "adapter_model.safetensors")
	w, err := diskfile.Create(file)
	if err == nil {
		if err = writeFactors(w, f.Rank, modules); err != nil {
			err = errors.Join(err, w.Abandon())
		} else {
			err = w.Close()
		}
	}
	if err != nil {
		return &fault.Error{File: file, Op: "write", Err: err}
	}
	return nil
}

// writeFactors writes the tensors.
func writeFactors(w io.Writer, rank int, modules []Trained) error {
	type factor struct {
		safetensors.Tensor
		x []float32
	}
	var list []factor
	for _, m := range modules {
		if len(m.A) != rank*m.In || len(m.B) != m.Out*rank {
			return fmt.Errorf("%w: factors of %s", ErrShape, m.Module)
		}
		for _, p := range []factor{
			{safetensors.Tensor{Name: prefix + m.Module + ".lora_A.weight", Shape: []int{rank, m.In}}, m.A},
			{safetensors.Tensor{Name: prefix + m.Module + ".lora_B.weight", Shape: []int{m.Out, rank}}, m.B},
		} {
			p.DType, p.Size = "F32", int64(4*len(p.x))
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b factor) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	head := make([]safetensors.Tensor, len(list))
	for i, p := range list {
		head[i] = p.Tensor
	}
	out, err := safetensors.NewWriter(w, head, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for _, p := range list {
		for part := range slices.Chunk(p.x, 1<<14) {
			buf = buf[:0]
			for _, v := range part {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			if _, err := out.Write(buf); err != nil {
				return err
			}
		}
	}
	return out.Close()
}

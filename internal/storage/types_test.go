package storage

import (
	"encoding/json"
	"slices"
	"testing"
)

// ggmlType is what the real llama.cpp knows of a type id.
type ggmlType struct {
	ID         int    `json:"id"`
	Name       string `json:"name"`
	Elems      int    `json:"elems"`
	Bytes      int    `json:"bytes"`
	Multiplies bool   `json:"multiplies"`
	FileTypes  []int  `json:"file_types"`
}

func ggmlTypes(t *testing.T) map[string]ggmlType {
	t.Helper()
	var list []ggmlType
	if err := json.Unmarshal(golden(t, "../types.json"), &list); err != nil {
		t.Fatal(err)
	}
	byName := map[string]ggmlType{}
	for _, g := range list {
		byName[g.Name] = g
	}
	if len(byName) != 35 {
		t.Fatalf("%d types of llama.cpp", len(byName))
	}
	return byName
}

// What a type says of GGUF is what llama.cpp says; one that says nothing of it, or forgets the -1 of
// a type that GGUF does not have, fails here.
func TestTypesAsLlamaCpp(t *testing.T) {
	ggml := ggmlTypes(t)
	fileTypes := map[int]Type{}
	for _, i := range All() {
		g, ok := ggml[string(i.Type)]
		if !ok {
			g = ggmlType{ID: -1, Elems: i.BlockElems, Bytes: i.BlockBytes}
		}
		if i.GGML != g.ID || i.BlockElems != g.Elems || i.BlockBytes != g.Bytes {
			t.Errorf("%s: ggml id %d, %d elements in %d bytes; llama.cpp: %+v", i.Type, i.GGML, i.BlockElems, i.BlockBytes, g)
		}
		if i.Weights() != g.Multiplies {
			t.Errorf("%s: weights on CPUs: %v; llama.cpp: %v", i.Type, i.Weights(), g.Multiplies)
		}
		if i.Weights() && len(g.FileTypes) > 0 && !slices.Contains(g.FileTypes, i.FileType) {
			t.Errorf("%s: file type %d; llama.cpp makes such files as %v", i.Type, i.FileType, g.FileTypes)
		}
		if other, taken := fileTypes[i.FileType]; taken && i.Weights() {
			t.Errorf("%s and %s have file type %d", i.Type, other, i.FileType)
		}
		fileTypes[i.FileType] = i.Type
		if found, ok := ByGGML(uint32(i.GGML)); i.GGML >= 0 && (!ok || found != i) {
			t.Errorf("%s is not found by its id", i.Type)
		}
	}
	if _, ok := ByGGML(1 << 31); ok {
		t.Error("an id beyond all types is known")
	}
}

// Every type is described whole: nothing that other packages ask of it is left out.
func TestTypesAreComplete(t *testing.T) {
	for _, i := range All() {
		if i.Type == Planes {
			continue // one byte of a tensor that is described by its Scheme
		}
		if i.Doc == "" || i.Decode == nil || i.BlockElems < 1 || i.BlockBytes < 1 {
			t.Errorf("%s: incomplete: %+v", i.Type, i)
		}
		if (i.Grid == nil) != (i.SetCodes == nil) {
			t.Errorf("%s: Grid and SetCodes go together", i.Type)
		}
		if i.Float && i.Encode == nil {
			t.Errorf("%s: a float type that cannot be written", i.Type)
		}
		if i.BlockElems == 1 {
			if i.Fallback != "" {
				t.Errorf("%s: every row fits, what is %s for", i.Type, i.Fallback)
			}
			continue
		}
		to, ok := Lookup(i.Fallback)
		if !ok || to.Encode == nil || to.BlockElems >= i.BlockElems || !to.Weights() || to.Bits() < i.Bits() {
			t.Errorf("%s: %q cannot stand in for it", i.Type, i.Fallback)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		cols int
		want Type
	}{
		{Q4K, 512, Q4K},
		{Q4K, 288, Q5_0},
		{IQ4XS, 288, IQ4NL},
		{Q6K, 288, Q8_0},
		{Q6K, 80, F16},
		{Q8_0, 80, F16},
		{BF16, 80, BF16},
	} {
		if got := c.typ.Fit(c.cols); got != c.want {
			t.Errorf("%s in rows of %d: %s, want %s", c.typ, c.cols, got, c.want)
		}
	}
}

// Command encode makes the bytes of a block type from raw float32 rows on standard input, for
// comparison with the real ggml: encode TYPE COLUMNS [IMPORTANCE-FILE]. With TYPE ending in "!" it
// decodes blocks to float32 instead.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/storage"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "encode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	name, decode := strings.CutSuffix(args[0], "!")
	info, ok := storage.Lookup(storage.Type(name))
	if !ok {
		return fmt.Errorf("unknown type %q", name)
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if decode {
		x := make([]float32, len(in)/info.BlockBytes*info.BlockElems)
		info.Decode(x, in)
		return binary.Write(os.Stdout, binary.LittleEndian, x)
	}
	cols, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	x := make([]float32, len(in)/4)
	if err := binary.Read(bytes.NewReader(in), binary.LittleEndian, x); err != nil {
		return err
	}
	var importance []float32
	if len(args) > 2 {
		b, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		importance = make([]float32, len(b)/4)
		if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, importance); err != nil {
			return err
		}
	}
	row := cols / info.BlockElems * info.BlockBytes
	out := make([]byte, len(x)/cols*row)
	start := time.Now()
	for r := range len(x) / cols {
		if err := info.Encode(out[r*row:(r+1)*row], x[r*cols:(r+1)*cols], importance); err != nil {
			return fmt.Errorf("row %d: %w", r, err)
		}
	}
	fmt.Fprintf(os.Stderr, "%.1f M weights/s\n", float64(len(x))/time.Since(start).Seconds()/1e6)
	_, err = os.Stdout.Write(out)
	return err
}

package main

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/targets"
)

// diagnosis is the object of `pare doctor --output json`.
type diagnosis struct {
	Schema    int               `json:"schema"`
	Version   string            `json:"version"`
	CPU       string            `json:"cpu"`
	OS        string            `json:"os"`
	Arch      string            `json:"arch"`
	Threads   int               `json:"threads"`
	ISA       string            `json:"isa"`
	Levels    []string          `json:"isa_available"`
	Memory    int64             `json:"memory_bytes"`
	Disk      int64             `json:"disk_free_bytes"`
	ReadGBps  float64           `json:"read_gb_s"`
	Targets   map[string]string `json:"targets"`
	Emulators []string          `json:"emulators"`
	Runtimes  []string          `json:"runtimes"`
	Advice    []string          `json:"advice"`
}

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can do, and what would make it faster",
		Example: `  pare doctor
  pare doctor --output json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.diagnose(cmd.Context())
			if err != nil {
				return err
			}
			t := &table{head: []string{"what", "here"}}
			for _, row := range d.rows() {
				t.add(row[0], row[1])
			}
			return a.show(result{object: d, table: t, text: func(w io.Writer) {
				for _, row := range t.rows {
					fmt.Fprintf(w, "%-10s %s\n", row[0], row[1])
				}
			}})
		},
	}
}

func (a *app) diagnose(ctx context.Context) (*diagnosis, error) {
	read, err := readSpeed(ctx, a.threads, a.share())
	if err != nil {
		return nil, err
	}
	d := &diagnosis{
		Schema: 1, Version: version, CPU: proc.CPUName(), OS: runtime.GOOS, Arch: runtime.GOARCH, Threads: par.Threads(a.threads),
		ISA: string(a.level), Levels: []string{}, Memory: proc.TotalMemory(), Disk: proc.FreeDisk("."), ReadGBps: read,
		Targets: map[string]string{}, Emulators: found("qemu-aarch64-static", "qemu-aarch64", "qemu-x86_64-static", "qemu-x86_64"),
		Runtimes: found("llama-cli", "llama-server", "llama-bench", "ollama", "vllm"), Advice: []string{},
	}
	levels := cpu.Available()
	for _, l := range levels {
		d.Levels = append(d.Levels, string(l))
	}
	for _, t := range targets.All() {
		switch {
		case t.Level != "" && slices.Contains(levels, t.Level):
			d.Targets[t.Name] = "accuracy and speed are measured on this processor"
		case t.NotExecuted != "":
			d.Targets[t.Name] = "accuracy by pare's own runner; its kernels are not run"
		default:
			d.Targets[t.Name] = "accuracy by pare's own runner; speed is that of this processor"
		}
	}
	if len(levels) == 1 {
		d.Advice = append(d.Advice, "no fast kernels here (or built with noasm): everything runs, many times slower")
	}
	if a.level == cpu.Portable && len(levels) > 1 {
		d.Advice = append(d.Advice, "--isa portable gives the same bytes everywhere; --isa auto is many times faster")
	}
	if d.Threads < runtime.NumCPU() {
		d.Advice = append(d.Advice, fmt.Sprintf("%d of %d cores are used: -j 0 takes all", d.Threads, runtime.NumCPU()))
	}
	if d.Disk > 0 && d.Disk < 10<<30 {
		d.Advice = append(d.Advice, "little disk is free here: --work and -o can point elsewhere")
	}
	return d, nil
}

func (d *diagnosis) rows() [][2]string {
	rows := [][2]string{
		{"pare", fmt.Sprintf("%s %s/%s", d.Version, d.OS, d.Arch)},
		{"processor", fmt.Sprintf("%s, %s", d.CPU, plural(d.Threads, "thread"))},
		{"isa", d.ISA + " of " + strings.Join(d.Levels, ", ")},
	}
	if d.Memory > 0 {
		rows = append(rows, [2]string{"memory", human.Bytes(d.Memory)})
	}
	if d.Disk > 0 {
		rows = append(rows, [2]string{"disk", human.Bytes(d.Disk) + " free here"})
	}
	rows = append(rows, [2]string{"reads", fmt.Sprintf("%.1f GB/s of memory as measured now, at best about %.0f tokens per second from each GB of weights; less while others compute", d.ReadGBps, d.ReadGBps)})
	for _, n := range sortedNames(d.Targets) {
		rows = append(rows, [2]string{n, d.Targets[n]})
	}
	rows = append(rows, [2]string{"emulators", orNone(d.Emulators)}, [2]string{"runtimes", orNone(d.Runtimes)})
	for _, s := range d.Advice {
		rows = append(rows, [2]string{"advice", s})
	}
	return rows
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none found; none is needed"
	}
	return strings.Join(list, ", ")
}

// found lists the programs that are on the path.
func found(programs ...string) []string {
	list := []string{}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// readSpeed measures how fast all threads together read memory, in GB/s: the ceiling of generating
// text, which reads every weight once for every token. It is the best of many short tries: others who
// compute at the same time take from most of them.
func readSpeed(ctx context.Context, threads int, most int64) (float64, error) {
	words := 32 << 20 // 256 MiB, far beyond any cache
	if most > 0 {
		words = int(min(int64(words), most/8))
	}
	buf := make([]uint64, words)
	for i := 0; i < words; i += 512 {
		buf[i] = uint64(i) // touch every page, so that reading is reading and not zeroing
	}
	var sum atomic.Uint64 // keeps the compiler from dropping the loop
	best := time.Duration(1<<63 - 1)
	const tries, patience = 3, time.Second
	for i, first := 0, time.Now(); i < tries || time.Since(first) < patience; i++ {
		start := time.Now()
		err := par.Range(ctx, threads, words, 1<<20, func(_, lo, hi int) error {
			var a, b, c, d uint64
			for x := buf[lo:hi]; len(x) >= 8; x = x[8:] {
				a ^= x[0] ^ x[4]
				b ^= x[1] ^ x[5]
				c ^= x[2] ^ x[6]
				d ^= x[3] ^ x[7]
			}
			sum.Add(uint64(bits.OnesCount64(a ^ b ^ c ^ d)))
			return nil
		})
		if err != nil {
			return 0, err
		}
		best = min(best, time.Since(start))
	}
	return float64(words*8) / best.Seconds() / 1e9, nil
}

package par

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// A panic on any of the goroutines of a loop reaches the caller, with the place it came from, when the
// others are done; nothing of a later phase is begun.
func TestPanicsReachTheCaller(t *testing.T) {
	old := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(old)
	var met, done atomic.Int32
	item := func(i, bad int) {
		met.Add(1)
		for met.Load() < 2 { // both goroutines have an item
			runtime.Gosched()
		}
		if i == bad {
			brokenItem()
		}
		time.Sleep(5 * time.Millisecond)
		done.Add(1)
	}
	loops := map[string]func(bad int) error{
		"Range": func(bad int) error {
			return Range(t.Context(), 2, 2, 1, func(_, i, _ int) error { item(i, bad); return nil })
		},
		"Phases": func(bad int) error {
			return Phases(t.Context(), 2, 2, func(int) int { return 2 }, func(_, phase, i int) error {
				if phase > 0 {
					t.Error("a phase begins behind a panic")
				}
				item(i, bad)
				return nil
			})
		},
		"a Range inside a Range": func(bad int) error {
			return Range(t.Context(), 2, 2, 1, func(_, i, _ int) error {
				return Range(t.Context(), 2, 2, 1, func(_, j, _ int) error { item(2*i+j, bad); return nil })
			})
		},
	}
	for name, loop := range loops {
		for bad := range 2 {
			met.Store(0)
			done.Store(0)
			caught := func() (v any) {
				defer func() { v = recover() }()
				return loop(bad)
			}()
			f, ok := caught.(*fault.Panic)
			if !ok || f.Value != "broken item" || !strings.Contains(string(f.Stack), "brokenItem") {
				t.Errorf("%s, item %d: the caller got %v", name, bad, caught)
			}
			if done.Load() == 0 {
				t.Errorf("%s, item %d: the caller went on before the other item was done", name, bad)
			}
		}
	}
}

package distill

import (
	"testing"
)

// A step of the sample model: 16 sequences of 256 tokens, every weight trained, a teacher of the same size.
func BenchmarkStep(b *testing.B) {
	student, teacher := loadBooks(b, 256), loadBooks(b, 256)
	tr, err := NewTrainer(student, teacher, Plain(counted(32, 256)), func(*Param[float32]) bool { return true }, Options{Tokens: 1 << 40, Threads: 2})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := tr.Step(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(16*256/p.Seconds, "tokens/s")
	}
}

module github.com/pare-dev/pare/internal/kernels/_gen

go 1.26.0

//go:build !linux && !darwin

package main

import (
	"errors"
	"os"
)

// peakOf is not known here.
func peakOf(*os.ProcessState) float64 { return 0 }

// hold is not known here.
func hold(string) (func(), error) { return nil, errors.ErrUnsupported }

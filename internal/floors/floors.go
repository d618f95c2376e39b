// Package floors holds one test: imports point down the floor plan, never up and never sideways.
package floors

package bench

import (
	"slices"
	"testing"
)

func TestPercentilesAreMeasuredValues(t *testing.T) {
	ten := []float64{10, 1, 9, 2, 8, 3, 7, 4, 6, 5}
	for _, test := range []struct {
		values  []float64
		percent float64
		want    float64
	}{
		{ten, 50, 5}, {ten, 90, 9}, {ten, 95, 10}, {ten, 100, 10},
		{[]float64{3}, 50, 3}, {[]float64{3}, 95, 3},
		{[]float64{1, 2}, 50, 1}, {[]float64{1, 2, 3}, 50, 2}, {nil, 50, 0},
	} {
		if got := Percentile(test.values, test.percent); got != test.want {
			t.Errorf("%g percent of %v do not exceed %g, want %g", test.percent, test.values, got, test.want)
		}
	}
	if !slices.Equal(ten[:2], []float64{10, 1}) {
		t.Error("the values were changed")
	}
}

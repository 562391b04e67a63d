// Csv-stats groups a CSV on stdin by one column and describes another:
//
//	csv-stats GROUP VALUE
//
// It exits 1 when the input is wrong and 2 when it is called wrongly.
package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
)

type stats struct {
	count    int
	sum      float64
	min, max float64
}

func describe(in io.Reader, group, value string) (map[string]*stats, error) {
	rows := csv.NewReader(bufio.NewReaderSize(in, 64<<10))
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	g, v := slices.Index(header, group), slices.Index(header, value)
	if g < 0 || v < 0 {
		return nil, fmt.Errorf("no column %q and %q in %q", group, value, header)
	}
	groups := map[string]*stats{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return groups, nil
		} else if err != nil {
			return nil, err
		}
		number, err := strconv.ParseFloat(row[v], 64)
		if err != nil {
			line, _ := rows.FieldPos(v)
			return nil, fmt.Errorf("line %d: %q is not a number", line, row[v])
		}
		s := groups[row[g]]
		if s == nil {
			s = &stats{min: math.Inf(1), max: math.Inf(-1)}
			groups[row[g]] = s
		}
		s.count++
		s.sum += number
		s.min = min(s.min, number)
		s.max = max(s.max, number)
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: csv-stats GROUP VALUE < table.csv")
		os.Exit(2)
	}
	groups, err := describe(os.Stdin, os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "csv-stats:", err)
		os.Exit(1)
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names) // a map has no order, the output must have one
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "%-12s %7s %9s %9s %9s\n", os.Args[1], "count", "min", "mean", "max")
	for _, name := range names {
		s := groups[name]
		fmt.Fprintf(out, "%-12s %7d %9.2f %9.2f %9.2f\n", name, s.count, s.min, s.sum/float64(s.count), s.max)
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}

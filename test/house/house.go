// Package house holds the rules that the whole tree keeps, as tests in files of their own.
package house

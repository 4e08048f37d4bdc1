// Package pinned keeps kernel objects in folders of a BPF filesystem, so that they outlive the process.
//
// It owns how maps, programs and links are pinned, adopted by the next process, replaced in place and removed, and that one
// process at a time owns a folder. It does not depend on what is in a map or what a program does.
//
// A folder of one owner:
//
//	mapsVERSION/NAME   maps of one layout (package service has folders of its own for them)
//	links/NAME         a link for each place that a program is attached to
//
// Everything is replaced in one rename or one update of a link: a reader finds the old one or the new one.
package pinned

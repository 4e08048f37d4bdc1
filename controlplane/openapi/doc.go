// Package openapi describes the served API to clients: the OpenAPI documents
// from which kubectl explains fields, learns what a PATCH can do and merges
// lists. It makes them from the Go types and from the served kinds, so that they always
// match what is served. It answers no requests itself, and reads no objects.
//
// schema.go turns types into definitions, paths.go kinds into operations,
// documents.go puts them together and keeps the result compressed.
package openapi

// Package openapi describes the served API to clients: the OpenAPI documents
// from which kubectl explains fields, learns what a PATCH can do and merges
// lists. It makes them from the Go types and from the table of kinds, so that
// they cannot say anything else than what is served. It never answers a request
// itself, and it knows no objects.
//
// schema.go turns types into definitions, paths.go kinds into operations,
// documents.go puts them together and keeps the result compressed.
package openapi

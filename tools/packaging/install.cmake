# Install rules and the two package descriptions; included by the top CMakeLists.txt.
include(CMakePackageConfigHelpers)
set_target_properties(kvrt PROPERTIES EXPORT_NAME kvrt)
install(TARGETS kvrt kvrt_static EXPORT kvrtTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES runtime/kvrt.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT kvrtTargets NAMESPACE kvrt:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
configure_package_config_file(tools/packaging/kvrtConfig.cmake.in ${PROJECT_BINARY_DIR}/kvrtConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(tools/packaging/kvrt.pc.in ${PROJECT_BINARY_DIR}/kvrt.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvrtConfig.cmake ${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
install(FILES ${PROJECT_BINARY_DIR}/kvrt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
if(TARGET kvrt_command)
    install(TARGETS kvrt_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
